"""The exceptions can be caught as ours and as the built-in that they are."""

from __future__ import annotations

import pytest

from fedmedlora.core import errors
from fedmedlora.core.errors import FedMedLoRAError

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
