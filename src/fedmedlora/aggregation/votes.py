"""What sites say of each other's adapters, brought to one number a voter and site.

A voter answers by task. A site without one of the voter's tasks is not judged on it: there it
counts as the median site that has it, so that a site of entities only is not punished for links. Of
labels nothing can be said: no request tells a voter which ones another site annotates, and so it
asks for its own.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.adapters.exchange import Score, SiteScores
from fedmedlora.core.seeds import python_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Task

# Of normal votes, by their median absolute deviation: with the usual deviation one liar could make
# every difference look like noise.
_ERROR_OF_MEDIAN = 1.4826 * math.sqrt(math.pi / 2)


@dataclass(frozen=True, slots=True)
class Vote:
    """What an adapter loses on one site's notes; `error` is of a mean that is not paired."""

    loss: float
    error: float


Answer = dict["Task", Vote]
"""Of one adapter, by the voter's tasks."""

Votes = dict[str, dict[str, Vote]]
"""By voter, then by the site that is voted on."""


def ask(
    call: Callable[[Mapping[str, Request]], Iterator[Reply]],
    shown: Mapping[str, list[AdapterState]],
    tasks: Mapping[str, Iterable[Task]],
    max_tokens: int | None,
    seed: int,
) -> dict[str, list[Answer]]:
    """By voter what it says of the adapters that it is shown, in their order.

    A voter that does not answer, or has no notes to ask, is not there; a single number that is
    missing or not finite is a NaN.

    Args:
        call: Asks sites.
        shown: By voter.
        tasks: Of every voter.
        max_tokens: Completion tokens on which one adapter is scored, by task.
        seed: Of the order in which a site is shown the adapters, without their names.
    """
    names: dict[str, list[str]] = {}
    requests: dict[str, Request] = {}
    for voter, adapters in shown.items():
        names[voter] = [f"adapter-{place}" for place in range(1, len(adapters) + 1)]
        python_rng(seed, "votes", voter).shuffle(names[voter])
        by_name = dict(sorted(zip(names[voter], adapters, strict=True), key=lambda item: item[0]))
        requests[voter] = Score(by_name, tuple(sorted(tasks[voter])), max_tokens)
    found: dict[str, list[Answer]] = {}
    for reply in call(requests) if requests else ():
        if isinstance(reply, SiteScores) and reply.site in requests:
            answered = sorted({task for row in reply.losses.values() for task in row})
            if answered:
                found[reply.site] = [_answer(reply, n, answered) for n in names[reply.site]]
    return dict(sorted(found.items()))


def over_tasks(answer: Answer) -> Vote:
    """The mean over tasks of what a site says of one adapter."""
    errors = [vote.error for vote in answer.values()]
    return Vote(
        sum(vote.loss for vote in answer.values()) / len(answer), math.hypot(*errors) / len(answer)
    )


def against(
    start: Answer, theirs: Mapping[str, Answer], tasks: Mapping[str, Iterable[Task]]
) -> dict[str, Vote]:
    """By site, what a voter finds its adapter to lose more than the one that all started from.

    Args:
        start: The voter's answer on that one.
        theirs: Its answers on the sites' adapters.
        tasks: What every site was trained on; without a task in common there is no vote.
    """
    beyond = {
        site: {
            task: Vote(vote.loss - start[task].loss, math.hypot(vote.error, start[task].error))
            for task, vote in answer.items()
            if task in tasks[site]
        }
        for site, answer in theirs.items()
    }
    found: dict[str, Vote] = {}
    for site, own in beyond.items():
        if not own:
            continue
        whole = dict(own)
        for task in start.keys() - own.keys():
            losses = [other[task].loss for other in beyond.values() if task in other]
            finite = [loss for loss in losses if math.isfinite(loss)]
            if finite:
                whole[task] = Vote(statistics.median(finite), 0.0)
        found[site] = over_tasks(dict(sorted(whole.items())))
    return found


def tally(votes: Votes, sites: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
    """By site, the median vote and its standard error; nothing for a site without any vote."""
    losses, errors = {}, {}
    for site in sites:
        given = [of[site] for of in votes.values() if site in of]
        if not given:
            continue
        middle = losses[site] = statistics.median(vote.loss for vote in given)
        spread = statistics.median(abs(vote.loss - middle) for vote in given)
        error = _ERROR_OF_MEDIAN * spread / math.sqrt(len(given))
        errors[site] = error if len(given) > 1 else given[0].error
    return losses, errors


def _answer(scores: SiteScores, name: str, tasks: Iterable[Task]) -> Answer:
    losses, errors = scores.losses.get(name, {}), scores.standard_errors.get(name, {})
    return {task: Vote(losses.get(task, math.nan), errors.get(task, math.nan)) for task in tasks}
