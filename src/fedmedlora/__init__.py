"""Federated LoRA training of one language model across hospitals, for clinical extraction."""

import os

__version__ = "0.1.0"

# Read when the tensor library loads. Threads that spin long while they wait for each other take the
# processor from the very thread that they wait for, as soon as others use the machine, too; those
# that sleep at once are slow where nobody does. These spin for some ten microseconds (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
