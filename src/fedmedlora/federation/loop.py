"""The whole algorithm on one screen. It does not know where the sites are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fedmedlora.adapters.algebra import change_norm
from fedmedlora.adapters.exchange import SiteFailure, SiteUpdate
from fedmedlora.aggregation.strategy import AggregationContext
from fedmedlora.core.errors import AggregationError, ConfigError, RunStoreError
from fedmedlora.core.records import RoundRecord, SilentObserver
from fedmedlora.core.seeds import derive_seed

if TYPE_CHECKING:
    from fedmedlora.adapters.exchange import LocalPlan, Reply, Train
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import Aggregate, Memory, Scorer, Strategy
    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer
    from fedmedlora.federation.checkpoint import Checkpoint
    from fedmedlora.federation.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Outcome:
    """The adapter after the last round, and the record of every round."""

    adapter: AdapterState
    records: tuple[RoundRecord, ...]


def run_rounds(
    *,
    arm: str,
    strategy: Strategy,
    runtime: Runtime,
    sites: Iterable[str],
    num_rounds: int,
    adapter: AdapterState,
    plan: LocalPlan,
    seed: int,
    tasks: Mapping[str, tuple[Task, ...]] | None = None,
    scorer: Scorer | None = None,
    checkpoint: Checkpoint | None = None,
    min_sites: int | None = None,
    deadline_seconds: float | None = None,
    observer: Observer | None = None,
) -> Outcome:
    """The adapter after `num_rounds` rounds; goes on after the last round that was saved.

    A round is on disk before anybody is told of it, and all that the next one depends on is in its
    folder; so a run that was killed and resumed ends with the same bits as one that was not.

    Args:
        arm: Name of the arm, for records.
        strategy: Who gets which plan, and how updates become one adapter.
        runtime: Carries requests to sites.
        sites: Names of the sites that take part.
        num_rounds: How many rounds there shall be in all.
        adapter: The adapter before the first round.
        plan: What all sites do in every round; rounds and seed are filled in here, the seed from
            `seed`, site and round only, so that arms that begin alike do the same work.
        seed: Seed of the run.
        tasks: What each site trains, where that is not the same for all; None: the plan's.
        scorer: The server's validation notes, if it has any.
        checkpoint: Where rounds are saved; None saves nothing.
        min_sites: Merged updates that a round needs; None: those of all sites.
        deadline_seconds: How long a runtime with real sites waits for replies.
        observer: Is told of ended rounds and of sites that were left out.

    Raises:
        ConfigError: The strategy needs validation notes that are absent, or no site is named.
        AggregationError: Fewer than `min_sites` updates could be merged.
        RunStoreError: Saved rounds are damaged or of another run, or a round cannot be saved.
        AdapterMismatchError: Saved rounds hold another kind of adapter.
    """
    observer = observer or SilentObserver()
    names = sorted(set(sites))
    quorum = len(names) if min_sites is None else min_sites
    _check_start(names, quorum, strategy, scorer)
    adapter, memory, records = _resume(checkpoint, arm, adapter, num_rounds)

    for round_index in range(len(records) + 1, num_rounds + 1):
        started, traffic = perf_counter(), runtime.traffic.copy()
        plans = {
            site: replace(
                plan,
                tasks=plan.tasks if tasks is None else tasks[site],
                round_index=round_index,
                num_rounds=num_rounds,
                seed=derive_seed(seed, "site", site, round_index),
            )
            for site in names
        }
        requests = strategy.plan(plans, adapter, memory)
        updates, failed = _sort_replies(requests, runtime.call(requests, deadline_seconds))
        _check_quorum(arm, round_index, quorum, len(updates), failed)

        context = AggregationContext(
            round_index,
            adapter,
            memory,
            seed=derive_seed(seed, "aggregation", round_index),
            num_rounds=num_rounds,
            scorer=scorer,
            call=partial(runtime.call, deadline_seconds=deadline_seconds),
        )
        result = strategy.aggregate(updates, context)
        failed |= result.refused
        _check_quorum(arm, round_index, quorum, len(result.weights), failed)

        moved = runtime.traffic.since(traffic)
        record = replace(
            _record(arm, round_index, requests, updates, failed, result),
            bytes_up=dict(sorted(moved.up.items())),
            bytes_down=dict(sorted(moved.down.items())),
            elapsed_seconds=perf_counter() - started,
        )
        if checkpoint is not None:
            checkpoint.save(record, result.adapter, result.memory)
        for site, code in record.failed.items():
            observer.message(f"{arm}, round {round_index}: site {site} was left out ({code})")
        observer.round_ended(record)
        adapter, memory = result.adapter, result.memory
        records.append(record)
    return Outcome(adapter, tuple(records))


def _check_start(sites: list[str], quorum: int, strategy: Strategy, scorer: Scorer | None) -> None:
    if not 1 <= quorum <= len(sites):
        raise ConfigError(
            f"rounds: expected min_sites between 1 and the number of sites, "
            f"got {quorum} of {len(sites)}."
        )
    if strategy.needs_scorer and scorer is None:
        raise ConfigError(
            f"rounds: {type(strategy).__name__} weighs sites by their loss on validation notes at "
            "the server; expected some, got none. Name them as `server_notes` in the study file, "
            "or choose `fedavg` or `uniform`."
        )


def _resume(
    checkpoint: Checkpoint | None, arm: str, adapter: AdapterState, num_rounds: int
) -> tuple[AdapterState, Memory, list[RoundRecord]]:
    """Adapter, memory and records to go on from."""
    saved = checkpoint.latest() if checkpoint is not None else None
    if checkpoint is None or saved is None:
        return adapter, {}, []
    if saved.record.arm != arm or saved.record.round_index > num_rounds:
        raise RunStoreError(
            f"{checkpoint.folder}: holds round {saved.record.round_index} of {saved.record.arm}; "
            f"expected at most round {num_rounds} of {arm}. Give every arm a folder of its own."
        )
    adapter.check_compatible(saved.adapter, f"{checkpoint.folder}: the saved adapter")
    return saved.adapter, saved.memory, checkpoint.records()


def _sort_replies(
    requests: Mapping[str, object], replies: Iterable[Reply]
) -> tuple[list[SiteUpdate], dict[str, str]]:
    """Updates by site name, and a code for every site without one."""
    updates: list[SiteUpdate] = []
    failed: dict[str, str] = {}
    for reply in replies:
        if isinstance(reply, SiteUpdate):
            updates.append(reply)
        else:
            failed[reply.site] = reply.code if isinstance(reply, SiteFailure) else "bad-reply"
    answered = failed.keys() | {update.site for update in updates}
    failed |= dict.fromkeys(requests.keys() - answered, "lost")
    return sorted(updates, key=lambda update: update.site), failed


def _check_quorum(
    arm: str, round_index: int, quorum: int, num_updates: int, failed: Mapping[str, str]
) -> None:
    if num_updates < quorum:
        told = ", ".join(f"{site} ({code})" for site, code in sorted(failed.items()))
        raise AggregationError(
            f"{arm}, round {round_index}: expected updates of at least {quorum} sites, got "
            f"{num_updates}; failed: {told}. Look at the logs of these sites, then resume, or "
            "start a new run with a lower min_sites."
        )


def _record(
    arm: str,
    round_index: int,
    requests: Mapping[str, Train],
    updates: Iterable[SiteUpdate],
    failed: Mapping[str, str],
    result: Aggregate,
) -> RoundRecord:
    """What the round writes down. Losses that are not finite are left out: JSON has no NaN."""
    merged = [update for update in updates if update.site in result.weights]
    metrics = {update.site: list(update.metrics.values()) for update in merged}
    by_task = {
        update.site: {
            task: {
                "train_loss": m.train_loss,
                "validation_loss": m.validation_loss,
                "num_examples": m.num_examples,
                "num_completion_tokens": m.num_completion_tokens,
            }
            for task, m in sorted(update.metrics.items())
        }
        for update in merged
    }
    train: dict[str, float] = {}
    validation: dict[str, float] = {}
    for site, tasks in metrics.items():
        trained = [
            (m.train_loss, m.num_completion_tokens) for m in tasks if m.train_loss is not None
        ]
        tokens = sum(n for _, n in trained)
        if tokens:
            train[site] = sum(loss * n for loss, n in trained) / tokens
        held_out = [m.validation_loss for m in tasks if m.validation_loss is not None]
        if held_out:
            validation[site] = sum(held_out) / len(held_out)
    return RoundRecord(
        arm=arm,
        round_index=round_index,
        sites=tuple(result.weights),
        failed=dict(sorted(failed.items())),
        weights=dict(result.weights),
        train_loss={site: loss for site, loss in train.items() if math.isfinite(loss)},
        validation_loss={site: loss for site, loss in validation.items() if math.isfinite(loss)},
        num_examples={site: sum(m.num_examples for m in tasks) for site, tasks in metrics.items()},
        num_completion_tokens={
            site: sum(m.num_completion_tokens for m in tasks) for site, tasks in metrics.items()
        },
        update_norms={
            update.site: change_norm(requests[update.site].adapter, update.adapter)
            for update in merged
            if update.adapter.spec.rank == requests[update.site].adapter.spec.rank
        },
        site_seconds={update.site: update.elapsed_seconds for update in merged},
        tasks=_plain(by_task),
        notes=_plain(result.record),
    )


def _plain(value: Any) -> Any:
    """The value as JSON gives it back, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
