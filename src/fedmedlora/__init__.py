"""Federated LoRA training of one language model across hospitals, for clinical extraction."""

import os

__version__ = "0.1.0"

# Read when the tensor library loads. Threads that spin while they wait for each other take the
# processor from the very thread that they wait for, as soon as others use the machine, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
