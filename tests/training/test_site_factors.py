"""Plans that train or share one factor only, kept by real sites over several rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedmedlora.adapters.codec import FP32
from fedmedlora.adapters.exchange import LocalPlan, SiteUpdate, Train, decode
from fedmedlora.adapters.state import AdapterState, Factor, LoRAPair
from fedmedlora.aggregation.fedsa_lora import FedSALoRA
from fedmedlora.aggregation.ffa_lora import FFALoRA
from fedmedlora.aggregation.flexlora import FlexLoRA
from fedmedlora.aggregation.rolora import RoLoRA
from fedmedlora.core.records import SilentObserver
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import run_rounds
from fedmedlora.models.load import BaseModel
from fedmedlora.models.lora import LoRAModel
from fedmedlora.training.batches import EncodedExample
from fedmedlora.training.local import LocalSettings, train_locally
from fedmedlora.training.site import LocalSite, TaskData
from fedmedlora.training.site_state import SiteState

SETTINGS = LocalSettings(learning_rate=3e-3, epochs=1.0, batch_tokens=256)


@pytest.fixture(scope="session")
def model(tiny: Callable[..., BaseModel], lora_of: Callable[[BaseModel], LoRAModel]) -> LoRAModel:
    return lora_of(tiny("llama"))


@pytest.fixture
def start(model: LoRAModel, adapter_of: Callable[..., AdapterState]) -> AdapterState:
    return adapter_of(model.base)  # B is zero, as before training


@pytest.fixture
def sites(model: LoRAModel, examples: list[EncodedExample], tmp_path: Path) -> dict[str, LocalSite]:
    found = {}
    for name, data in (("north", examples[:3]), ("south", examples[3:])):
        tasks = {"entities": TaskData(tuple(data), (), num_documents=1)}
        state = SiteState(tmp_path / name)
        found[name] = LocalSite(name, model, tasks, SETTINGS, SilentObserver(), state)
    return found


class Listener:
    """Every request and update that passes the wall, by site and round."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], Train] = {}
        self.updates: dict[tuple[str, int], SiteUpdate] = {}

    def __call__(self, direction: str, site: str, data: bytes) -> None:
        message = decode(data)
        if isinstance(message, Train):
            self.requests[site, message.plan.round_index] = message
        else:
            assert isinstance(message, SiteUpdate), message
            self.updates[site, message.round_index] = message


def rounds(sites: dict[str, LocalSite], start: AdapterState, strategy, num_rounds: int):
    listener = Listener()
    outcome = run_rounds(
        arm="arm",
        strategy=strategy,
        runtime=InProcessRuntime(sites, FP32, tap=listener),
        sites=sites,
        num_rounds=num_rounds,
        adapter=start,
        plan=LocalPlan(0),
        seed=3,
    )
    return outcome.adapter, listener


def same(a: AdapterState, b: AdapterState, factor: Factor) -> bool:
    return all(torch.equal(a.pairs[m].factor(factor), b.pairs[m].factor(factor)) for m in a.pairs)


def test_under_ffa_a_stays_as_it_was_drawn_and_only_b_leaves(
    sites: dict[str, LocalSite], start: AdapterState
) -> None:
    adapter, heard = rounds(sites, start, FFALoRA(), 2)
    assert {update.adapter.factors for update in heard.updates.values()} == {frozenset({"B"})}
    assert same(adapter, start, "A")
    assert not same(adapter, start, "B")


def test_under_rolora_the_first_round_moves_b_and_the_second_a(
    sites: dict[str, LocalSite], start: AdapterState
) -> None:
    first, _ = rounds(sites, start, RoLoRA(), 1)
    second, heard = rounds(sites, start, RoLoRA(), 2)
    assert same(first, start, "A")
    assert not same(first, start, "B")
    assert same(second, first, "B")
    assert not same(second, first, "A")
    assert heard.updates["north", 1].adapter.factors == {"B"}
    assert heard.updates["north", 2].adapter.factors == {"A"}


def trained_from_own_b(
    site: LocalSite, request: Train, kept: dict[str, torch.Tensor], model: LoRAModel
) -> AdapterState:
    """What training from the received `A` and the kept `B` gives."""
    pairs = {
        module: LoRAPair(pair.A, kept[f"{module}.B"])
        for module, pair in request.adapter.pairs.items()
    }
    begun = AdapterState(request.adapter.spec, pairs)
    examples = site.data["entities"].train
    result = train_locally(model, begun, examples, request.plan, SETTINGS, SilentObserver())
    return result.adapter


def test_under_fedsa_b_stays_at_home_and_goes_on_from_where_it_was(
    sites: dict[str, LocalSite], start: AdapterState, model: LoRAModel, tmp_path: Path
) -> None:
    adapter, heard = rounds(sites, start, FedSALoRA(share_b_at_the_end=False), 2)
    assert {update.adapter.factors for update in heard.updates.values()} == {frozenset({"A"})}
    assert same(adapter, start, "B")
    first, second = (SiteState(tmp_path / "north").before(r) for r in (2, 3))
    assert set(first) == set(second) == {f"{module}.B" for module in start.pairs}
    expected = trained_from_own_b(sites["north"], heard.requests["north", 2], first, model)
    assert same(heard.updates["north", 2].adapter, expected, "A")
    assert all(torch.equal(second[f"{m}.B"], pair.B) for m, pair in expected.pairs.items())


def test_in_fedsas_last_round_sites_train_and_send_their_own_b(
    sites: dict[str, LocalSite], start: AdapterState, model: LoRAModel, tmp_path: Path
) -> None:
    adapter, heard = rounds(sites, start, FedSALoRA(), 2)
    assert heard.updates["north", 1].adapter.factors == {"A"}
    assert not same(adapter, start, "B")
    kept = SiteState(tmp_path / "north").before(2)
    expected = trained_from_own_b(sites["north"], heard.requests["north", 2], kept, model)
    assert heard.updates["north", 2].adapter == expected


def test_under_flexlora_each_site_trains_an_adapter_of_its_own_rank(
    sites: dict[str, LocalSite], start: AdapterState
) -> None:
    adapter, heard = rounds(sites, start, FlexLoRA({"north": 1}), 2)
    assert adapter.spec == start.spec
    for round_index in (1, 2):
        assert heard.updates["north", round_index].adapter.spec.rank == 1
        assert heard.updates["south", round_index].adapter.spec.rank == start.spec.rank
    assert not same(adapter, start, "B")


def test_a_site_whose_round_is_repeated_starts_from_the_same_b(
    sites: dict[str, LocalSite], start: AdapterState
) -> None:
    rounds(sites, start, FedSALoRA(), 1)
    plan = LocalPlan(2, share_factors=frozenset({"A"}), seed=9)
    first, again = (sites["north"].handle(Train(plan, start)) for _ in range(2))
    assert first.adapter == again.adapter
