"""One model, adapters of several ranks: sites of a federation need not have the same."""

from __future__ import annotations

from pathlib import Path

import torch

from fedmedlora.adapters.ranks import change_rank
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.models.catalog import ALL_LINEAR
from fedmedlora.models.lora import LoRAModel, initial_adapter, merged
from fedmedlora.testing.tiny import tiny_base


def test_an_adapter_of_another_rank_is_computed_and_given_back_as_it_is(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    fresh = initial_adapter(base, rank=4, alpha=8.0, target_modules=ALL_LINEAR, seed=0)
    noise = torch.Generator().manual_seed(0)
    pairs = {
        name: LoRAPair(pair.A, 0.3 * torch.randn(pair.B.shape, generator=noise))
        for name, pair in fresh.pairs.items()
    }
    whole = AdapterState(fresh.spec, pairs)
    part = change_rank(whole, 2, alpha=4.0)
    model = LoRAModel(base, whole.spec)
    tokens = torch.arange(1, 20)[None]
    for adapter in (whole, part, whole):
        model.load(adapter)
        assert model.state() == adapter
        with torch.inference_mode():
            got = model.network(tokens).logits
            expected = merged(base, adapter).model(tokens).logits
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert [p.shape[0] for p in model.parameters(frozenset({"A"}))][:1] == [4]
    model.load(part)
    assert {p.shape[0] for p in model.parameters(frozenset({"A"}))} == {2}
