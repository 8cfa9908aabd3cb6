"""`cross-eval`: without notes at the server, sites judge each other's adapters on their own.

A site's loss is the median over the other sites of what its adapter loses on their held-out notes,
against the adapter that all started from; nobody votes for itself, and fewer than half of the
voters cannot move a median far. What a site says of its own training counts for nothing: a site
with missing labels has the lowest training loss of all.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.adapters.exchange import Score, SiteScores
from fedmedlora.aggregation.decision import Candidates, Decision
from fedmedlora.aggregation.gibbs import gibbs, prior_of, temperature_of
from fedmedlora.aggregation.guard import HARM_ERRORS, WIN_ERRORS, Verdict
from fedmedlora.aggregation.validation import Difference, difference_of
from fedmedlora.aggregation.weighting import by_loss, equal
from fedmedlora.core.errors import AggregationError
from fedmedlora.core.seeds import python_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.tuning import PlusTuning

_FEWEST_VOTERS = 3
"""Below it, a site that is left out as the judge leaves nobody to be fitted on."""

# Of normal votes, by their median absolute deviation: with the usual deviation one liar could make
# every difference look like noise.
_ERROR_OF_MEDIAN = 1.4826 * math.sqrt(math.pi / 2)


@dataclass(frozen=True, slots=True)
class Vote:
    """What an adapter loses on one site's notes; `error` is of a mean that is not paired."""

    loss: float
    error: float


Votes = dict[str, dict[str, Vote]]
"""By voter, then by the site that is voted on."""


def decide_by_sites(
    call: Callable[[Mapping[str, Request]], Iterator[Reply]],
    candidates: Candidates,
    before: AdapterState,
    tuning: PlusTuning,
    seed: int,
) -> Decision:
    """The guarded weights of `cross-eval`.

    The guard leaves out one voter after the other: weights from the votes of the rest, merged, are
    scored by the one left out, beside those of the rule `reference` on the same votes. Without
    three voters that rule stands.

    Args:
        call: Asks sites; one that fails has no vote.
        candidates: Sound updates; their sites vote.
        before: The adapter that the sites started from.
        tuning: The method's numbers.
        seed: Of the order in which a site is shown the others' adapters, without their names.

    Raises:
        AggregationError: Most voters found no finite loss for any adapter.
    """
    adapters = candidates.adapters
    others = {voter: [site for site in sorted(adapters) if site != voter] for voter in adapters}
    shown = {voter: [*(adapters[s] for s in others[voter]), before] for voter in sorted(adapters)}
    answers = _ask(call, candidates, shown if len(shown) > 1 else {}, tuning, seed)
    votes: Votes = {}
    for voter, (*theirs, start) in answers.items():
        votes[voter] = {
            site: Vote(vote.loss - start.loss, math.hypot(vote.error, start.error))
            for site, vote in zip(others[voter], theirs, strict=True)
        }
    refused = {site: "non-finite-loss" for site in sorted(adapters) if _is_broken(votes, site)}
    votes = {
        voter: {
            site: vote
            for site, vote in given.items()
            if site not in refused and math.isfinite(vote.loss)
        }
        for voter, given in votes.items()
    }
    sites = [site for site in sorted(adapters) if site not in refused]
    if not sites:
        raise AggregationError(
            f"no adapter of {', '.join(sorted(adapters))} has a finite loss on other sites' notes. "
            "Lower the learning rate."
        )
    losses, errors = _tally(votes, sites)
    prior = prior_of({site: candidates.sizes[site] for site in sites}, tuning.size_exponent)

    def fit(without: str | None = None) -> tuple[dict[str, float], dict[str, float]]:
        rest = {voter: given for voter, given in votes.items() if voter != without}
        seen, spread = _tally(rest, sites)
        heat = temperature_of(_noise(seen, spread), tuning.least_temperature, tuning.noise_factor)
        return gibbs(prior, seen, heat), _reference(seen, sites)

    proposed, incumbent = fit()
    voters = [voter for voter, given in votes.items() if given]
    scored: list[tuple[float, float, float]] = []
    if len(voters) >= _FEWEST_VOTERS and len(sites) > 1:
        # One voter after the other, so that two merged adapters are in memory and not two each.
        for voter in voters:
            both = [candidates.merged(weights) for weights in fit(without=voter)]
            found = _ask(call, candidates, {voter: [*both, before]}, tuning, seed)
            if voter in found:
                challenger, reference, unmoved = (vote.loss for vote in found[voter])
                scored.append((challenger, reference, unmoved))
    gain = _difference([challenger - reference for challenger, reference, _ in scored])
    accepted = len(sites) == 1 or gain.is_gain(WIN_ERRORS)
    harm = _difference([row[0 if accepted else 1] - row[2] for row in scored])
    weights = proposed if accepted else incumbent
    record = {
        "rule": "cross-eval",
        "losses": losses,
        "standard_errors": errors,
        "noise": _noise(losses, errors),
        "temperature": temperature_of(
            _noise(losses, errors), tuning.least_temperature, tuning.noise_factor
        ),
        "prior": prior,
        "proposed_weights": proposed,
        "incumbent_weights": incumbent,
        "worse_than_before": [site for site in sites if _is_worse(votes, site)],
        "votes": {
            voter: {site: vote.loss for site, vote in given.items()}
            for voter, given in votes.items()
        },
        "without_vote": [site for site in sites if site not in votes],
    }
    return Decision(
        weights,
        Verdict(accepted, gain if len(sites) > 1 else None),
        record,
        refused,
        harmless=Verdict(not harm.is_harm(HARM_ERRORS), harm),
    )


def _ask(
    call: Callable[[Mapping[str, Request]], Iterator[Reply]],
    candidates: Candidates,
    shown: Mapping[str, list[AdapterState]],
    tuning: PlusTuning,
    seed: int,
) -> dict[str, list[Vote]]:
    """By voter what it says of the adapters that it is shown, in their order.

    A voter that does not answer soundly is not there; a single number that is missing or not
    finite is a NaN.
    """
    names: dict[str, list[str]] = {}
    requests: dict[str, Request] = {}
    for voter, adapters in shown.items():
        names[voter] = [f"adapter-{place}" for place in range(1, len(adapters) + 1)]
        python_rng(seed, "votes", voter).shuffle(names[voter])
        by_name = dict(sorted(zip(names[voter], adapters, strict=True), key=lambda item: item[0]))
        tasks = tuple(sorted(candidates.tasks[voter]))
        requests[voter] = Score(by_name, tasks, tuning.max_score_tokens)
    found: dict[str, list[Vote]] = {}
    for reply in call(requests) if requests else ():
        if isinstance(reply, SiteScores) and reply.site in requests:
            found[reply.site] = [_vote(reply, name) for name in names[reply.site]]
    return dict(sorted(found.items()))


def _vote(scores: SiteScores, name: str) -> Vote:
    """The mean over tasks of what a site says of one adapter."""
    losses = list(scores.losses.get(name, {}).values())
    errors = list(scores.standard_errors.get(name, {}).values())
    if not losses or len(losses) != len(errors):
        return Vote(math.nan, math.nan)
    return Vote(sum(losses) / len(losses), math.hypot(*errors) / len(errors))


def _is_broken(votes: Votes, site: str) -> bool:
    """Whether most voters found no finite loss."""
    given = [of[site] for of in votes.values() if site in of]
    return 2 * sum(not math.isfinite(vote.loss) for vote in given) > len(given)


def _difference(values: list[float]) -> Difference:
    """Over voters; not a number if most of them found none, else without those that did not."""
    finite = [value for value in values if math.isfinite(value)]
    if 2 * len(finite) < len(values):
        return Difference(math.nan, math.nan, len(values))
    return difference_of(np.array(finite))


def _tally(votes: Votes, sites: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
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


def _noise(losses: Mapping[str, float], errors: Mapping[str, float]) -> float:
    """The median standard error of the sites' losses; infinite if there is none."""
    found = [errors[site] for site in losses if math.isfinite(errors[site])]
    return statistics.median(found) if found else math.inf


def _is_worse(votes: Votes, site: str) -> bool:
    given = [of[site].loss for of in votes.values() if site in of]
    return difference_of(np.array(given)).is_harm(HARM_ERRORS)


def _reference(losses: Mapping[str, float], sites: list[str]) -> dict[str, float]:
    """The rule of `reference` on the votes; a site without a vote counts as the median one."""
    if not losses:
        return equal(dict.fromkeys(sites))
    middle = statistics.median(losses.values())
    return by_loss({site: losses.get(site, middle) for site in sites})
