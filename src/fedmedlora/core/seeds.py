"""Random numbers by address: every draw has a name, so no draw depends on how many came before."""

import hashlib
import random

import numpy as np


def derive_seed(*address: str | int) -> int:
    """A 63-bit seed for one named purpose, e.g. `derive_seed(0, "site-a", 3, "shuffle")`.

    The same address gives the same seed on every machine and Python version; two addresses that
    differ anywhere give independent seeds. `1` and `"1"` are different addresses.
    """
    digest = hashlib.sha256()
    for part in address:
        token = f"{type(part).__name__}:{part}".encode()
        digest.update(len(token).to_bytes(8, "little"))
        digest.update(token)
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def python_rng(*address: str | int) -> random.Random:
    """A `random.Random` for one address."""
    return random.Random(derive_seed(*address))


def numpy_rng(*address: str | int) -> np.random.Generator:
    """A numpy generator for one address."""
    return np.random.Generator(np.random.PCG64(derive_seed(*address)))
