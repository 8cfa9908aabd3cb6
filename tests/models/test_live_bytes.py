"""Memory that is counted without being taken is the memory that would be taken."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from fedmedlora.models.live_bytes import LiveBytes, ghost
from fedmedlora.models.load import BaseModel

Tiny = Callable[..., BaseModel]
KIB = 1024


def test_the_peak_is_of_what_exists_together() -> None:
    with LiveBytes() as counted:
        first = torch.zeros(KIB, dtype=torch.uint8, device="meta")
        second = first + first
        del first
        third = second.view(2, -1)  # no memory of its own
        second = third.repeat(2, 1)
        del third

    assert counted.peak == 3 * KIB  # the view keeps what it shows
    assert counted.now == 2 * KIB
    del second
    assert counted.now == 0


def test_what_was_there_before_does_not_count() -> None:
    weight = torch.zeros(KIB, KIB, device="meta")

    with LiveBytes() as counted:
        found = torch.zeros(2, KIB, device="meta") @ weight.t()

    assert counted.peak == 2 * found.nbytes


def test_small_real_tensors_may_be_mixed_in() -> None:
    states = torch.zeros(10, 4, device="meta")

    with LiveBytes():
        found = states.index_select(0, torch.tensor([3, 1, 1]))

    assert found.shape == (3, 4)


@pytest.mark.parametrize("takes", [True, False])
def test_products_of_bfloat16_are_onednns_only_where_it_takes_them(
    takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without such instructions, a plan that counted its programs was a third too high."""
    monkeypatch.setattr("fedmedlora.models.live_bytes.onednn_takes_bfloat16", lambda: takes)
    weight = torch.zeros(4, KIB, device="meta", dtype=torch.bfloat16)

    with LiveBytes() as counted:
        for num_rows in (2, 3, 2):
            torch.zeros(num_rows, KIB, device="meta", dtype=torch.bfloat16) @ weight.t()

    assert len(counted.products) == (2 if takes else 0)


def test_a_ghost_computes_shapes_and_leaves_the_model_as_it_was(tiny: Tiny) -> None:
    base = tiny("llama")
    before = copy.deepcopy(base.model.state_dict())

    made = ghost(base)
    with LiveBytes() as counted, torch.inference_mode():
        mask = torch.zeros(1, 1, 3, 3)  # or it would look for one, and there are no numbers
        ids = torch.tensor([[5, 9, 7]])
        output = made.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    assert output.device.type == "meta"
    assert output.shape == base.model(input_ids=torch.tensor([[5, 9, 7]])).logits.shape
    assert 0 < counted.peak < 100 * KIB  # the weights themselves are more
    assert {p.device.type for p in made.model.parameters()} == {"meta"}
    after = base.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_ghost_counts_what_the_model_would_make(tiny: Tiny) -> None:
    """The same forward and backward pass, with numbers and without."""
    base = tiny("llama")

    def counted(model: torch.nn.Module) -> int:
        ids = torch.tensor([[5, 9, 7, 81, 12, 44]])
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()  # type: ignore[operator]
        with LiveBytes() as found:
            mask = torch.zeros(1, 1, 6, 6)
            output = model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).logits
            output.float().sum().backward()
        return found.peak

    real, unreal = counted(base.model), counted(ghost(base).model)
    assert abs(real - unreal) <= 0.05 * real
