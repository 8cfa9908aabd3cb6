"""Ways to find the mentions of a sentence: ours, and the peers that it is compared with."""
