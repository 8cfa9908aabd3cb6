"""What all benchmarks share: settings, timing, targets and the record that is committed."""
