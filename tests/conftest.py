"""What tests of several packages need."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from typer.main import get_command

from fedmedlora.cli.app import app

# The default run draws the same examples every time, so that a change is not refused for an old
# fault that chance has just found; `make test-all` looks for such faults with fresh ones.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("fixed")


def _command_faults(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    command: Any = get_command(app)
    used = 1
    while used < len(words) and words[used] in getattr(command, "commands", {}):
        command = command.commands[words[used]]
        used += 1
    if getattr(command, "commands", None):
        return [f"{' '.join(words[: used + 1])}: no such command"]
    given = {word.split("=")[0] for word in words[used:] if word.startswith("--")}
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    faults = [f"{' '.join(words[:used])}: no option {option}" for option in sorted(given - known)]
    needed = {p.opts[0] for p in command.params if p.required and p.param_type_name == "option"}
    return faults + [f"{' '.join(words[:used])} needs {o}" for o in sorted(needed - given)]


@pytest.fixture
def command_faults() -> Callable[[str], list[str]]:
    """What is wrong with a `fedmedlora ...` line: unknown command or option, option missing."""
    return _command_faults
