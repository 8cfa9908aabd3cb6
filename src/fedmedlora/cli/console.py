"""Everything the command line shows: exit codes, error lines, JSON and progress bars."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import typer

from fedmedlora.core.errors import ConfigError, FedMedLoRAError, kind_and_place
from fedmedlora.core.libraries import missing_library, not_installed, unfit

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def run_app(app: typer.Typer, arguments: Sequence[str]) -> int:
    """The exit code of one invocation; errors become one message on stderr.

    0 done, 1 failed, 2 wrong usage or config, 130 interrupted. A traceback is printed only with
    `--debug`, because local variables and messages of other libraries may hold note text.
    """
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer makes this of Ctrl-C and drops what it said
            typer.echo("Interrupted.", err=True)
    except (typer.Exit, SystemExit) as stop:
        code = getattr(stop, "exit_code", getattr(stop, "code", 0))
    except (typer.Abort, KeyboardInterrupt) as stop:
        typer.echo(str(stop) or "Interrupted.", err=True)
        return EXIT_INTERRUPTED
    except FedMedLoRAError as error:
        code = EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
        return _failed(str(error), code, debug)
    except Exception as error:
        return _unexpected(error, debug)
    return code if isinstance(code, int) else EXIT_DONE


def _unexpected(error: Exception, debug: bool) -> int:
    show = getattr(error, "show", None)
    if callable(show):  # click's usage errors print themselves
        show(file=sys.stderr)
        return EXIT_USAGE
    if isinstance(error, OSError):
        # strerror and the path, never the exception's own text
        where = error.filename or "file system"
        return _failed(f"{where}: {error.strerror or type(error).__name__}.", EXIT_FAILED, debug)
    # Of all other errors nothing is asked but names of libraries and of our own lines.
    if isinstance(error, ImportError):
        if (library := missing_library(error, ask_text=False)) is not None:
            return _failed(str(not_installed(library)), EXIT_FAILED, debug)
        if error.name:
            return _failed(str(unfit(error.name)), EXIT_FAILED, debug)
    text = f"unexpected {kind_and_place(error)}. Run again with --debug and report the traceback."
    return _failed(text, EXIT_FAILED, debug)


def _failed(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc(file=sys.stderr)
    for line in text.splitlines():
        typer.echo(f"error: {line}", err=True)
    return code


def print_json(value: Any) -> None:
    """A result for scripts, on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def log_to_stderr() -> None:
    """Show the library's warnings and errors; they name sites, files and lines, never note text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.getLogger("fedmedlora").handlers[:] = [handler]
