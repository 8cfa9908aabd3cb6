"""The adapter that comes with the package: what it is called, and where it lies."""

from __future__ import annotations

from pathlib import Path

STARTER = "starter"
"""Stands for the shipped adapter wherever an adapter is named; `./starter` is a folder."""

STARTER_FOLDER = Path(__file__).with_name("starter_adapter")
CARD_FILE = "MODEL_CARD.md"


def adapter_folder(name: str) -> Path:
    """The folder that a user means by an adapter's name or path."""
    return STARTER_FOLDER if name == STARTER else Path(name).expanduser()
