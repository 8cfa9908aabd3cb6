"""A layer of a model's shape, made without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from fedmedlora.core.errors import MissingExtraError, ModelError
from fedmedlora.models import miniature as making
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.miniature import load_tokenizer, miniature
from fedmedlora.study import step_cost
from fedmedlora.study.machine_speed import Way
from fedmedlora.study.step_cost import StepTimer
from fedmedlora.testing.tiny import SHAPES, Shape, tiny_base, write_tiny_model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_has_one_layer_of_the_models_own_shape(
    tmp_path: Path, shape: Shape, dtype: torch.dtype
) -> None:
    found = miniature(str(write_tiny_model(tmp_path, shape)), dtype=dtype)

    assert found is not None
    small, num_layers = found
    assert num_layers == 2
    layers = [name for name, _ in small.model.named_modules() if name.endswith("down_proj")]
    assert len(layers) == 1
    assert small.model.get_submodule(layers[0]).weight.shape == (32, 48)
    assert small.output_weight.dtype == dtype


def test_steps_of_it_can_be_timed_one_at_a_time_and_several(tmp_path: Path) -> None:
    found = miniature(str(write_tiny_model(tmp_path)))
    assert found is not None
    timer = StepTimer(found[0], rank=2, target_modules=ALL_LINEAR, batch_tokens=320)
    before = torch.get_num_threads()
    try:
        assert timer(Way(1)) > 0
        assert timer(Way(1, 2)) > 0
    finally:
        torch.set_num_threads(before)
    assert timer.num_tokens == 2 * (24 + 56 + 72)


def test_steps_of_large_batches_are_small_enough_to_be_tried(tmp_path: Path) -> None:
    found = miniature(str(write_tiny_model(tmp_path)))
    assert found is not None

    timer = StepTimer(found[0], rank=2, target_modules=ALL_LINEAR, batch_tokens=8192)

    assert timer.num_tokens == 8 * (24 + 56 + 72)


def test_a_step_that_fails_beside_others_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = miniature(str(write_tiny_model(tmp_path)))
    assert found is not None
    timer = StepTimer(found[0], rank=2, target_modules=ALL_LINEAR, batch_tokens=320)

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(step_cost, "token_losses", fails)
    before = torch.get_num_threads()
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            timer(Way(1, 2))
    finally:
        torch.set_num_threads(before)


def test_drawing_its_weights_leaves_other_draws_alone(tmp_path: Path) -> None:
    folder = str(write_tiny_model(tmp_path))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    miniature(folder)

    assert torch.equal(torch.rand(3), expected)


def test_there_is_none_of_a_model_whose_layers_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_MOST_PARAMETERS", 100)

    assert miniature(str(write_tiny_model(tmp_path))) is None


def test_there_is_none_of_what_is_no_model(tmp_path: Path) -> None:
    assert miniature(str(tmp_path)) is None


def test_the_tokenizer_alone_is_that_of_the_model(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)

    assert load_tokenizer(str(tmp_path)).encode("No pain.") == base.tokenizer.encode("No pain.")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"its tokenizer cannot be loaded \([A-Za-z]+: ") as found:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("read", [miniature, load_tokenizer])
def test_what_is_read_of_a_gguf_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], object]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    opened = []

    @contextmanager
    def once() -> Iterator[None]:
        opened.append(path)
        yield

    monkeypatch.setattr(making, "read_once", once)
    with suppress(ModelError, MissingExtraError):
        read(str(path))

    assert opened == [path]
