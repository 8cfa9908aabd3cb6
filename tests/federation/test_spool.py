"""Updates that wait on disk are the same bits, cost no memory, and leave nothing behind."""

import errno
import gc
import os
import weakref
from pathlib import Path

import pytest
import torch

from fedmedlora.adapters.algebra import change_norm
from fedmedlora.adapters.exchange import LocalPlan, Train, decode, encode
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.aggregation.fedmedlora_plus import FedMedLoRAPlus
from fedmedlora.aggregation.strategy import AggregationContext, NoteLosses, Strategy
from fedmedlora.aggregation.uniform import Uniform
from fedmedlora.core.errors import RunStoreError
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import run_rounds
from fedmedlora.federation.spool import Place, Spool
from fedmedlora.testing.adapters import SHAPES, DriftingSite, random_adapter, site_update

SITES = [f"site-{number:02d}" for number in range(12)]
every_strategy = pytest.mark.parametrize(
    "strategy",
    [FedAvg(), Uniform(), FedMedLoRAPlus("reference")],
    ids=["fedavg", "uniform", "plus"],
)


class FirstNumber:
    """A loss that is the adapter's first number, which it reads as any model would."""

    def loss(self, adapter: AdapterState) -> NoteLosses:
        first = next(iter(adapter.pairs.values())).A[0, 0]
        return NoteLosses({"entities": first.abs().reshape(1).double().numpy()})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_adapter_comes_back_bit_by_bit_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    spool = Spool(tmp_path)
    adapters = [random_adapter(seed, rank=1 + seed, dtype=dtype) for seed in range(3)]

    kept = [spool.keep(adapter) for adapter in adapters]

    assert kept == adapters
    assert [k.spec for k in kept] == [a.spec for a in adapters]
    assert list(kept[0].pairs) == list(adapters[0].pairs)
    assert decode(encode(site_update("a", kept[2]))) == decode(
        encode(site_update("a", adapters[2]))
    )


def test_a_factor_that_was_not_sent_stays_empty(tmp_path: Path) -> None:
    half = random_adapter(1).only({"B"})

    kept = Spool(tmp_path).keep(half)

    assert kept.factors == {"B"}
    assert kept == half
    full = random_adapter(2)
    assert kept.filled_from(full) == half.filled_from(full)
    assert change_norm(full, kept) == change_norm(full, half)


def test_what_was_read_is_the_readers_own(tmp_path: Path) -> None:
    adapter = random_adapter(1)
    kept = Spool(tmp_path).keep(adapter)

    for _, _, tensor in kept.tensors():
        tensor.zero_()

    assert kept == adapter


def bytes_of_live_tensors() -> int:
    gc.collect()
    return sum(o.nbytes for o in gc.get_objects() if issubclass(type(o), torch.Tensor))


def test_updates_that_wait_hold_no_tensor(tmp_path: Path) -> None:
    request = Train(LocalPlan(1), random_adapter(0))
    before = bytes_of_live_tensors()

    runtime = InProcessRuntime({site: DriftingSite(site) for site in SITES}, work=tmp_path)
    waiting = list(runtime.call(dict.fromkeys(SITES, request)))

    assert len({update.adapter.digest() for update in waiting}) == 1  # all are there to be read
    assert bytes_of_live_tensors() == before


@pytest.mark.parametrize(
    ("strategy", "most"),
    [
        (FedAvg(), 6),  # two adapters are compared, and the pair before
        (Uniform(), 6),
        # It looks at the directions of all changes: one module of every site, never two.
        (FedMedLoRAPlus("reference"), 2 * (len(SITES) + 2)),
    ],
    ids=["fedavg", "uniform", "plus"],
)
def test_a_fold_holds_few_pairs_at_a_time_however_many_sites_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: Strategy, most: int
) -> None:
    spool = Spool(tmp_path)
    updates = [site_update(site, spool.keep(random_adapter(1))) for site in SITES]
    read = Spool.read
    given: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def watched(self: Spool, place: Place, dtype: torch.dtype) -> LoRAPair:
        alive.append(sum(tensor() is not None for tensor in given))
        pair = read(self, place, dtype)
        given.extend(weakref.ref(factor) for factor in (pair.A, pair.B))
        return pair

    monkeypatch.setattr(Spool, "read", watched)

    strategy.aggregate(updates, AggregationContext(1, random_adapter(0), scorer=FirstNumber()))

    assert len(alive) > len(SITES) * len(SHAPES)
    assert max(alive) <= most < len(SITES) * len(SHAPES)


@every_strategy
def test_a_run_whose_updates_wait_on_disk_ends_with_the_bits_of_one_in_memory(
    tmp_path: Path, strategy: Strategy
) -> None:
    sites = {site: DriftingSite(site, number + 1) for number, site in enumerate(SITES)}

    def outcome(work: Path | None):
        return run_rounds(
            arm="a",
            strategy=strategy,
            runtime=InProcessRuntime(sites, work=work),
            sites=sites,
            num_rounds=3,
            adapter=random_adapter(0),
            plan=LocalPlan(0),
            seed=1,
            scorer=FirstNumber(),
        )

    filed, held = outcome(tmp_path / "work"), outcome(None)

    assert filed.adapter == held.adapter
    for ours, theirs in zip(filed.records, held.records, strict=True):
        for name in ("weights", "update_norms", "bytes_up", "notes", "failed", "train_loss"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_nothing_can_be_left_behind(tmp_path: Path) -> None:
    runtime = InProcessRuntime({"a": DriftingSite("a")}, work=tmp_path / "new" / "work")

    [update] = runtime.call({"a": Train(LocalPlan(1), random_adapter(0))})

    assert update.adapter.is_finite()
    assert list((tmp_path / "new" / "work").iterdir()) == []


def test_updates_of_an_earlier_call_can_still_be_read(tmp_path: Path) -> None:
    runtime = InProcessRuntime({"a": DriftingSite("a")}, work=tmp_path)
    requests = [Train(LocalPlan(r, seed=r), random_adapter(0)) for r in (1, 2)]
    expected = [InProcessRuntime({"a": DriftingSite("a")}).call({"a": r}) for r in requests]

    [first], [second] = [list(runtime.call({"a": request})) for request in requests]

    assert [[first], [second]] == [list(replies) for replies in expected]


def test_a_full_disk_is_no_fault_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)

    class Full:
        def seek(self, position: int) -> int:
            return position

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(RunStoreError, match="no space left on the disk"):
        spool.keep(random_adapter(0))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStoreError, match="file"):
        Spool(tmp_path / "file" / "work")


def test_an_update_that_was_cut_off_is_noticed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = spool.keep(random_adapter(0))
    spool._file.truncate(20)

    with pytest.raises(RunStoreError, match="cut off"):
        kept.is_finite()
