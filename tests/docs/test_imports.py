"""Whatever the package imports, also late, is a dependency that we declare and not a gift."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fedmedlora
from fedmedlora.core.libraries import EXTRAS

ROOT = Path(__file__).parents[2]
SOURCE = Path(fedmedlora.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

TEXT_HALF = {"core", "corpora", "prompts", "runs", "evaluation", "report"}
# What transformers imports on our behalf, to read GGUF files. `.ci/fresh` would notice others.
BY_OTHERS = {"accelerate"}


def declared(extra: str) -> set[str]:
    """By the names that are imported: what this extra brings, with the extras that it contains."""
    listed = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    found: set[str] = set()
    for requirement in map(Requirement, listed):
        if requirement.name == "fedmedlora":
            found.update(*map(declared, requirement.extras))
        else:
            found.add(requirement.name.replace("-", "_"))
    return found


def imported() -> Iterator[tuple[str, str]]:
    """Module of ours, library that it imports somewhere; what only type checkers read is left out.

    `importlib` and `find_spec` are not seen through.
    """
    for path in SOURCE.rglob("*.py"):
        module = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        unread = {
            id(node)
            for branch in ast.walk(tree)
            if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
            for inner in branch.body
            for node in ast.walk(inner)
        }
        for node in ast.walk(tree):
            if id(node) in unread:
                continue
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names | {"fedmedlora"}:
                    yield module, name


IMPORTED = sorted(set(imported()))


def allowed(module: str) -> set[str]:
    package = module.partition("/")[0]
    extras = {"models", "quantised"}
    if package in TEXT_HALF:
        extras = set()
    if package == "testing":
        extras = {"testing"}
    return declared("").union(*map(declared, extras))


def test_every_library_that_is_imported_is_declared_where_it_is_needed() -> None:
    assert ("corpora/compressed.py", "zstandard") in IMPORTED
    assert ("models/fetch.py", "huggingface_hub") in IMPORTED

    assert [pair for pair in IMPORTED if pair[1] not in allowed(pair[0])] == []


def test_every_library_that_is_declared_is_imported_or_said_to_be_needed_by_others() -> None:
    names = {name for _, name in IMPORTED}
    ours = declared("") | declared("models") | declared("quantised") | declared("testing")

    assert ours - names == BY_OTHERS


@pytest.mark.parametrize("library", sorted({name for _, name in IMPORTED} | BY_OTHERS))
def test_the_command_that_installs_a_missing_library_names_the_extra_that_brings_it(
    library: str,
) -> None:
    extra = EXTRAS.get(library, "")

    assert library in declared(extra)
