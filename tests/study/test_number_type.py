"""bfloat16 is used only where it computes what float32 computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.records import SilentObserver
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.dtype import DtypeChoice
from fedmedlora.models.fetch import is_fetched
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.quantised import quantise
from fedmedlora.prompts.registry import get_format
from fedmedlora.study import prepare
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.number_type import RoundingError, rounding_error
from fedmedlora.study.study_file import load_study
from fedmedlora.testing.tiny import tiny_base


def error_of(load: Callable[[torch.dtype], BaseModel]) -> RoundingError:
    tags = get_format("compact")
    return rounding_error(load, tags, rank=4, alpha=8, target_modules=ALL_LINEAR)


def test_an_ordinary_model_is_exact_enough(tmp_path: Path) -> None:
    error = error_of(lambda dtype: tiny_base(tmp_path, dtype=dtype))

    assert 0 < error.gradient < 0.1
    assert error.name == "bfloat16"


def test_the_model_is_loaded_once_and_converted_as_if_loaded_in_bfloat16(tmp_path: Path) -> None:
    loaded: list[BaseModel] = []

    def load(dtype: torch.dtype) -> BaseModel:
        loaded.append(tiny_base(tmp_path, dtype=dtype))
        return loaded[-1]

    error_of(load)
    (converted,), plain = loaded, tiny_base(tmp_path, dtype=torch.bfloat16)

    # Buffers too: the frequencies of the positions stay in float32.
    for (name, found), (_, expected) in zip(
        sorted([*converted.model.named_parameters(), *converted.model.named_buffers()]),
        sorted([*plain.model.named_parameters(), *plain.model.named_buffers()]),
        strict=True,
    ):
        assert found.dtype == expected.dtype, name
        assert torch.equal(found, expected), name


def test_a_model_in_4_bits_is_loaded_in_each_type(tmp_path: Path) -> None:
    asked: list[torch.dtype] = []

    def load(dtype: torch.dtype) -> BaseModel:
        asked.append(dtype)
        base = tiny_base(tmp_path, dtype=dtype)
        quantise(base.model, "cpu")
        return base

    error_of(load)
    assert asked == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize(("set_to", "trial", "rounding"), [(None, 1, 3), (2, 2, 2)])
def test_what_is_tried_has_the_threads_that_may_be_used(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch, set_to: int | None, trial: int, rounding: int
) -> None:
    seen: list[int] = []

    def tried(_: object) -> DtypeChoice:
        seen.append(torch.get_num_threads())
        return DtypeChoice("bfloat16", "torch", 3.0, 2.0, 1.0)

    def error(*_: object, **__: object) -> RoundingError:
        seen.append(torch.get_num_threads())
        return RoundingError(0.001, 0.01, 0.001)

    monkeypatch.setattr(prepare, "choose_dtype", tried)
    monkeypatch.setattr(prepare, "rounding_error", error)
    monkeypatch.setattr(prepare, "measured_speed", lambda *_: None)
    monkeypatch.setattr(prepare, "usable_cores", lambda: 3)
    config = load_study(tiny_study, ['model.dtype="auto"', "federation.processes=0"])
    model = config.model.model_copy(update={"threads": set_to})
    before = torch.get_num_threads()
    try:
        prepare.resolve(config.model_copy(update={"model": model}), SilentObserver())
    finally:
        torch.set_num_threads(before)

    assert seen == [trial, rounding]


def test_a_model_whose_logits_share_a_large_offset_stays_in_float32(tmp_path: Path) -> None:
    def load(dtype: torch.dtype) -> BaseModel:
        base = tiny_base(tmp_path)
        with torch.no_grad():  # the same for every token: float32 and softmax cancel it
            base.output_weight.add_(300.0)
        return replace(base, model=base.model.to(dtype))

    error = error_of(load)

    assert error.name == "float32"
    assert "bfloat16 changes the loss by" in error.reason


@pytest.mark.parametrize("fault", ["loss", "gradient", "merged_loss"])
@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_each_error_alone_rules_bfloat16_out(fault: str, value: float) -> None:
    small = RoundingError(0.001, 0.01, 0.001)

    assert small.name == "bfloat16"
    assert replace(small, **{fault: value}).name == "float32"


def test_the_faster_type_is_given_up_where_it_is_not_exact(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = DtypeChoice("bfloat16", "onednn", 3.0, 2.0, 1.0)
    monkeypatch.setattr(prepare, "choose_dtype", lambda _: fast)
    config: StudyConfig = load_study(tiny_study, ['model.dtype="auto"', 'model.kernel="auto"'])
    assert prepare.resolve(config, SilentObserver()).model.dtype == "bfloat16"

    wrong = RoundingError(0.3, 0.01, 0.001)
    monkeypatch.setattr(prepare, "rounding_error", lambda *_, **__: wrong)
    resolved, measured = prepare.resolve_here(config, SilentObserver())

    assert (resolved.model.dtype, resolved.model.kernel) == ("float32", "onednn")
    assert measured["number_type"]["reason"] == fast.reason
    assert measured["rounding"] == {
        "loss": 0.3, "gradient": 0.01, "merged_loss": 0.001, "reason": wrong.reason
    }  # fmt: skip
    assert prepare.resolve_here(resolved, SilentObserver()) == (resolved, {})


def test_what_the_study_sets_is_not_measured(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = DtypeChoice("bfloat16", "onednn", 3.0, 2.0, 1.0)
    monkeypatch.setattr(prepare, "choose_dtype", lambda _: fast)
    config = load_study(tiny_study, ['model.dtype="float32"', 'model.kernel="auto"'])

    model = prepare.resolve(config, SilentObserver()).model
    assert (model.dtype, model.kernel) == ("float32", "onednn")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_study_that_asks_for_a_gpu_is_refused_where_there_is_none(tiny_study: Path) -> None:
    config = load_study(tiny_study, ['model.device="cuda"'])

    with pytest.raises(ConfigError, match=r"model\.device: this machine has no GPU.*or \"auto\""):
        prepare.resolve(config, SilentObserver())


@pytest.mark.base_model
@pytest.mark.skipif(
    not is_fetched("smollm2-135m"),
    reason="the base model is not fetched; run: fedmedlora model fetch",
)
def test_the_embedded_model_is_exact_enough_in_bfloat16() -> None:
    assert error_of(lambda dtype: load_base("smollm2-135m", dtype=dtype)).name == "bfloat16"
