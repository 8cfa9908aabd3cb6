"""bfloat16 is used only where it computes what float32 computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedmedlora.core.records import SilentObserver
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.fetch import is_fetched
from fedmedlora.models.load import BaseModel, load_base
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
    fast = SimpleNamespace(name="bfloat16", reason="bfloat16: fast")
    monkeypatch.setattr(prepare, "choose_dtype", lambda: fast)
    config: StudyConfig = load_study(tiny_study, ['model.dtype="auto"'])
    assert prepare.resolve(config, SilentObserver()).model.dtype == "bfloat16"

    wrong = RoundingError(0.3, 0.01, 0.001)
    monkeypatch.setattr(prepare, "rounding_error", lambda *_, **__: wrong)
    assert prepare.resolve(config, SilentObserver()).model.dtype == "float32"


@pytest.mark.base_model
@pytest.mark.skipif(
    not is_fetched("smollm2-135m"),
    reason="the base model is not fetched; run: fedmedlora model fetch",
)
def test_the_embedded_model_is_exact_enough_in_bfloat16() -> None:
    assert error_of(lambda dtype: load_base("smollm2-135m", dtype=dtype)).name == "bfloat16"
