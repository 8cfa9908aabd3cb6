"""The command line as a whole: instant help, exit codes, and nothing shown that should not be."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from fedmedlora import __version__
from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.core.errors import ConfigError, CorpusError

CANARY = "Wilhelmina Ptarmigan"
HEAVY = {"torch", "transformers", "peft", "safetensors", "gguf", "numpy", "scipy", "jinja2"}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
    for name, child in (inner or {}).items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(get_command(app)))


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def call(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """One invocation in a process of its own, as the shell would make it."""
    return fresh(
        f"import sys; sys.argv = {['fedmedlora', *arguments]!r}; {before}\n"
        "from fedmedlora.cli.app import main; main()"
    )


def test_help_takes_at_most_three_times_as_long_as_importing_what_draws_it() -> None:
    # Processor time, because wall time on a busy machine says nothing about the program.
    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def seconds_of(work: Callable[[], subprocess.CompletedProcess[str]]) -> float:
        start = seconds()
        assert work().returncode == 0
        return seconds() - start

    ours, theirs = [], []
    for _ in range(5):
        ours.append(seconds_of(lambda: call("--help")))
        theirs.append(seconds_of(lambda: fresh("import typer, rich.console")))
        if min(ours) <= 3 * min(theirs):
            break

    assert min(ours) <= 3 * min(theirs)


def test_help_loads_little_besides_typer() -> None:
    done = fresh(
        "import sys, typer, rich\n"
        "before = set(sys.modules)\n"
        "from fedmedlora.cli.app import app\n"
        "from fedmedlora.cli.console import run_app\n"
        "run_app(app, ['--help'])\n"
        "print(*(set(sys.modules) - before))"
    )

    more = done.stdout.splitlines()[-1].split()
    assert [name for name in more if name.startswith(("rich.", "pygments", "markdown_it"))] == []
    assert len(more) < 60  # rich's Markdown alone is a hundred


def test_no_help_loads_anything_heavy() -> None:
    arguments = [[*path, "--help"] for path in ((), *COMMANDS)]
    done = fresh(
        "import sys, json\n"
        "from fedmedlora.cli.app import app\n"
        "from fedmedlora.cli.console import run_app\n"
        f"codes = [run_app(app, arguments) for arguments in {arguments!r}]\n"
        f"print(json.dumps([codes, sorted(set(sys.modules) & {HEAVY!r})]))"
    )

    codes, loaded = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(arguments)
    assert loaded == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_and_shows_an_example_that_works(
    path: tuple[str, ...],
    command_faults: Callable[[str], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = COMMANDS[path]

    assert run_app(app, [*path, "--help"]) == 0

    assert "Example: fedmedlora" in capsys.readouterr().out
    source = " ".join(f"{command.help} {command.epilog or ''}".split())
    example = re.search(r"Example: (fedmedlora [^`]+)$", source)
    assert example is not None
    assert example[1].split()[1 : 1 + len(path)] == list(path)
    assert command_faults(example[1]) == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_argument_and_option_is_explained(path: tuple[str, ...]) -> None:
    silent = [p.name for p in COMMANDS[path].params if p.name != "help" and not p.help]

    assert silent == []


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["--version"]) == 0

    assert capsys.readouterr().out == f"fedmedlora {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["corpus", "validate", "--nonsense"], "--nonsense"),
        (["corpus", "synthesize"], "--out"),
        (["corpus", "synthesize", "--out", "x", "--notes", "many"], "--notes"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong_on_stderr(
    arguments: list[str], message: str
) -> None:
    done = call(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_corpus_with_faults_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text("{}\n")

    done = call("corpus", "validate", str(tmp_path / "notes.jsonl"))

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Callable[..., int]:
    """`corpus synthesize`, failing inside with this error."""

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fedmedlora.corpora.synthetic.synthesize", broken)
    return lambda *more: run_app(app, [*more, "corpus", "synthesize", "--out", "unused"])


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"bad token in '{CANARY}'"),
        KeyError(CANARY),
        UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, "invalid start byte"),
        OSError(f"cannot write {CANARY}"),
        ImportError(f"no module {CANARY}"),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_unexpected_error_is_named_but_its_text_is_never_shown(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = failing(monkeypatch, error)()

    captured = capsys.readouterr()
    assert code == 1
    assert type(error).__name__ in captured.err
    for word in CANARY.split():
        assert word not in captured.out + captured.err
    assert "Traceback" not in captured.err


def test_a_traceback_is_shown_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(monkeypatch, ValueError("why"))("--debug") == 1

    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ValueError: why" in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CorpusError("a.jsonl:3: broken.\nb.jsonl:1: broken."), 1),
        (ConfigError("study.toml: rounds: expected 1 or more, got 0."), 2),
    ],
)
def test_our_own_errors_are_shown_line_by_line(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(monkeypatch, error)() == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"error: {line}" for line in str(error).splitlines()]


def test_a_full_disk_is_told_with_the_file_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(28, "No space left on device", "hospitals/documents.jsonl")

    assert failing(monkeypatch, full)() == 1

    assert capsys.readouterr().err == (
        "error: hospitals/documents.jsonl: No space left on device.\n"
    )


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (KeyboardInterrupt(), "Interrupted."),
        (typer.Abort(), "Interrupted."),
        (typer.Abort("Stopped. To go on: fedmedlora study resume R"), "Stopped. To go on: "),
    ],
)
def test_an_interruption_exits_with_130_and_says_how_to_go_on_if_the_command_knows(
    stop: BaseException,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(monkeypatch, stop)() == 130

    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("torch", "pip install 'fedmedlora[models]'"),
        ("transformers.utils", "pip install 'fedmedlora[models]'"),
        ("accelerate", "pip install 'fedmedlora[models]'"),
        ("bitsandbytes.functional", "pip install 'fedmedlora[quantised]'"),
        ("hypothesis", "pip install 'fedmedlora[testing]'"),
        ("unheard_of", "pip install unheard_of"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    missing: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = ModuleNotFoundError(f"no module {CANARY}", name=missing)

    assert failing(monkeypatch, error)() == 1

    library = missing.partition(".")[0]
    assert capsys.readouterr().err == (
        f"error: {library}: needed here and is not installed. Run: {command}\n"
    )


def test_a_library_that_is_too_old_is_named_with_the_command_that_renews_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ImportError(f"cannot import name {CANARY}", name="transformers.utils")

    assert failing(monkeypatch, error)() == 1

    assert capsys.readouterr().err == (
        "error: transformers: the installed version lacks what is needed here. "
        "Run: pip install --upgrade 'fedmedlora[models]'\n"
    )


def test_the_text_half_works_without_any_tensor_library(tmp_path: Path) -> None:
    block = "[sys.modules.__setitem__(name, None) for name in ('torch', 'transformers', 'peft')]"
    folder = str(tmp_path / "hospitals")

    written = call("corpus", "synthesize", "--out", folder, "--notes", "2", before=block)
    assert written.returncode == 0, written.stderr

    site = written.stdout.splitlines()[0]
    for arguments in (
        ["corpus", "validate", site],
        ["corpus", "summarize", folder],
        ["evaluate", "--gold", site, "--predicted", f"{site}/documents.jsonl"],
    ):
        done = call(*arguments, before=block)
        assert done.returncode == 0, done.stderr
