"""Our exceptions are built-in ones, too; what is told of those of libraries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fedmedlora
from fedmedlora.core import errors
from fedmedlora.core.errors import FedMedLoRAError, cause, kind_and_place, one_line

SOURCE = Path(fedmedlora.__file__).parent

BUILT_IN = {
    "ConfigError": ValueError,
    "CorpusError": ValueError,
    "AdapterMismatchError": ValueError,
    "ExchangeError": ValueError,
    "AggregationError": ValueError,
    "InferenceError": RuntimeError,
    "ModelError": RuntimeError,
    "RunStoreError": RuntimeError,
    "MissingExtraError": ImportError,
}


def test_every_exception_of_the_module_is_listed_here() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, FedMedLoRAError)
    }

    assert defined == {*BUILT_IN, "FedMedLoRAError"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_exception_is_ours_and_a_built_in_and_keeps_its_message(name: str) -> None:
    error = getattr(errors, name)("study.toml: rounds is 0; expected 1 or more.")

    assert isinstance(error, FedMedLoRAError)
    assert isinstance(error, BUILT_IN[name])
    assert str(error) == "study.toml: rounds is 0; expected 1 or more."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("accelerate is required."), "ValueError: accelerate is required"),
        (OSError("/models/a b:\n  no config.json\n"), "OSError: /models/a b: no config.json"),
        (KeyError("sha256"), "KeyError: 'sha256'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_librarys_error_is_told_on_one_line_with_its_kind(error: Exception, said: str) -> None:
    assert cause(error) == said


def test_passwords_and_keys_in_addresses_are_not_told() -> None:
    text = "Looking in https://ann:s3cret@index.example/simple, http://tok3n@b.example/x?sig=k3y."

    told = one_line(text)

    assert told == "Looking in https://***@index.example/simple, http://***@b.example/x?***"


def test_a_long_message_is_cut_between_words() -> None:
    told = one_line("/models/whole-path " + "word " * 500)

    assert told.startswith("/models/whole-path word")
    assert told.endswith("word ...")
    assert len(told) <= 404


@pytest.mark.parametrize("place", ["/home/ann/cache/kernel.c", "~/cache/kernel.c"])
def test_a_message_for_a_record_names_no_folder(place: str) -> None:
    assert (
        cause(OSError(f"{place}: no compiler"), folders=False) == "OSError: kernel.c: no compiler"
    )


@pytest.mark.parametrize("mark", ["'", '"'])
def test_a_folder_whose_name_has_a_blank_is_not_named_either(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = OSError(f"cannot open {mark}/home/alice smith/models/x.gguf{mark}")
    assert cause(quoted, folders=False) == f"OSError: cannot open {mark}x.gguf{mark}"

    monkeypatch.setenv("HOME", "/home/alice smith")
    bare = OSError("/home/alice smith/models/x.gguf: no such file; see /home/alice smithers")
    told = cause(bare, folders=False)
    assert told == "OSError: x.gguf: no such file; see alice smithers"


def test_of_a_long_message_without_a_blank_the_beginning_is_told() -> None:
    told = cause(OSError("x" * 500))

    assert told.startswith("OSError: xxxx")
    assert told.endswith("x ...")


def test_of_an_error_near_notes_only_kind_and_place_are_told() -> None:
    try:
        int("Wilhelmina Ptarmigan")
    except ValueError as error:
        told = kind_and_place(error)

    assert re.fullmatch(r"ValueError at test_errors\.py:\d+", told)


def test_the_text_of_a_librarys_error_is_asked_for_only_where_no_notes_are_read() -> None:
    # A module may be added here if what it hands to the library can never hold a note.
    readers = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(r"(?<!def )\b(cause|one_line)\(", path.read_text("utf-8"))
    }

    assert readers - {"core/errors.py"} == {
        "adapters/files.py",
        "adapters/streaming.py",
        "federation/checkpoint.py",
        "inference/packed_model.py",
        "models/attention_choice.py",
        "models/fetch.py",
        "models/load.py",
        "models/miniature.py",
        "training/site_state.py",
    }
