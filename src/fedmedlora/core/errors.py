"""The exceptions that fedmedlora raises on purpose.

Every message has the form *where: what is wrong; expected X, got Y. What to do.* and names files,
lines, ids and offsets only. Note text never enters a message: messages reach logs.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from traceback import extract_tb

_MOST_CHARACTERS = 400
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
_ROOT = r"(?:~|[A-Za-z]:)?[\\/]"
# In quotation marks a path may hold blanks; elsewhere nothing tells them from the end of it.
_FOLDERS = re.compile(
    rf"""(?<='){_ROOT}[^']*[\\/]|(?<="){_ROOT}[^"]*[\\/]|(?<![\w:/]){_ROOT}[^\s'"]*[\\/]"""
)
_QUERY = re.compile(r"(?<=\S)\?[^\s'\")>]*=[^\s'\")>]*")


class FedMedLoRAError(Exception):
    """Anything that fedmedlora refuses or could not do; the message says what to do about it."""


class ConfigError(FedMedLoRAError, ValueError):
    """A study file or an option is wrong; carries every fault found, one a line."""


class CorpusError(FedMedLoRAError, ValueError):
    """A corpus cannot be read exactly as it is."""


class AdapterMismatchError(FedMedLoRAError, ValueError):
    """Adapters of different base models, shapes or modules were brought together."""


class ExchangeError(FedMedLoRAError, ValueError):
    """A message between server and site is damaged, or not one of the declared kinds."""


class AggregationError(FedMedLoRAError, ValueError):
    """Site updates cannot be merged into one adapter."""


class InferenceError(FedMedLoRAError, RuntimeError):
    """Extraction could not be carried out."""


class ModelError(FedMedLoRAError, RuntimeError):
    """A base model is missing, damaged or of a kind that cannot be used."""


class RunStoreError(FedMedLoRAError, RuntimeError):
    """A run directory cannot be written, or what it holds is damaged or foreign."""


class MissingExtraError(FedMedLoRAError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


def cause(error: BaseException, *, folders: bool = True) -> str:
    """The kind and the text of a library's error, for a message of ours.

    Only where the library has not seen any note: it may put into the text what it was given.
    Without `folders`, paths are cut down to file names, as a run's record must not name a user.
    """
    text = one_line(str(error) if folders else _without_folders(str(error)))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """A library's message as one line of bearable length, without passwords and keys in URLs."""
    line = " ".join(_QUERY.sub("?***", _CREDENTIALS.sub("***@", text)).split()).rstrip(".")
    if len(line) <= _MOST_CHARACTERS:
        return line
    head = line[:_MOST_CHARACTERS]
    return (head.rpartition(" ")[0] or head) + " ..."


def _without_folders(text: str) -> str:
    home = os.path.expanduser("~")  # noqa: PTH111  # Path's raises where there is none
    return _FOLDERS.sub("", text.replace(home + os.sep, "~" + os.sep))


def kind_and_place(error: BaseException) -> str:
    """What may be said of an error whose text may hold note text: its kind and its line of code."""
    frames = extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}"
