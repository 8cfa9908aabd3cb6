"""Libraries that not every installation has: is one missing, and what installs it?"""

from __future__ import annotations

import re
from importlib.util import find_spec

from fedmedlora.core.errors import MissingExtraError

EXTRAS = {
    "accelerate": "models",
    "bitsandbytes": "quantised",
    "gguf": "models",
    "huggingface_hub": "models",
    "hypothesis": "testing",
    "peft": "bench",
    "safetensors": "models",
    "tokenizers": "models",
    "torch": "models",
    "transformers": "models",
}
"""By the name that is imported: the extra of ours that brings it."""

_PACKAGES = {"google": "protobuf", "yaml": "pyyaml", "PIL": "pillow"}
"""By the name that is imported: the package, where that is called otherwise."""

# How transformers asks for what one kind of model or tokenizer needs.
_WISHES = (
    re.compile(r"pip install (?:-U |--upgrade )?['\"]?([A-Za-z0-9][\w.-]*)"),
    re.compile(r"requires the (?:\S+ )?([A-Za-z0-9][\w.-]*) library"),
)


def require(*libraries: str) -> None:
    """Nothing, if all of them are installed; they are not imported.

    Raises:
        MissingExtraError: Some are not.
    """
    if missing := [name for name in libraries if find_spec(name) is None]:
        raise not_installed(*missing)


def not_installed(*libraries: str) -> MissingExtraError:
    """The error that names these and the command that installs them."""
    command = " ".join(sorted({_quoted(_requirement(name)) for name in libraries}))
    are = "is" if len(libraries) == 1 else "are"
    return MissingExtraError(
        f"{', '.join(libraries)}: needed here and {are} not installed. Run: pip install {command}"
    )


def unfit(library: str) -> MissingExtraError:
    """The error for a library that is there but lacks what is imported from it."""
    name = library.partition(".")[0]
    return MissingExtraError(
        f"{name}: the installed version lacks what is needed here. "
        f"Run: pip install --upgrade {_quoted(_requirement(name))}"
    )


def missing_library(error: BaseException, *, ask_text: bool) -> str | None:
    """The library whose absence is behind `error`, by the name that is imported or installed.

    Args:
        error: Any error; those that it came from are looked at, too.
        ask_text: Also look at what it says, as transformers raises errors of many kinds. Not where
            it may hold note text.
    """
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        if isinstance(inner, ModuleNotFoundError) and inner.name:
            return inner.name.partition(".")[0]
        if ask_text and (name := _wished_for(str(inner))) and not _is_installed(name):
            return name
        inner = inner.__cause__ or inner.__context__
    return None


def _wished_for(text: str) -> str | None:
    for pattern in _WISHES:
        if (found := pattern.search(text)) is not None:
            return found[1].lower()
    return None


def _is_installed(package: str) -> bool:
    from importlib import metadata  # slow, and seldom asked

    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if "[" in requirement else requirement


def _requirement(library: str) -> str:
    extra = EXTRAS.get(library.replace("-", "_"))
    return f"fedmedlora[{extra}]" if extra else _PACKAGES.get(library, library)
