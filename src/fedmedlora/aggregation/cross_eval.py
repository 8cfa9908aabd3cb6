"""`cross-eval`: without notes at the server, sites judge each other's adapters on their own.

A site's loss is the median over the other sites of what its adapter loses on their held-out notes,
against the adapter that all started from; nobody votes for itself, and fewer than half of the
voters cannot move a median far. What a site says of its own training counts for nothing: a site
with missing labels has the lowest training loss of all. A site is judged on the tasks that it
trains, but on the labels that the voters annotate: where sites annotate other labels, notes at the
server judge them more justly.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.aggregation.decision import Candidates, Decision
from fedmedlora.aggregation.gibbs import gibbs, prior_of, temperature_of
from fedmedlora.aggregation.guard import HARM_ERRORS, WIN_ERRORS, Verdict
from fedmedlora.aggregation.validation import Difference, difference_of
from fedmedlora.aggregation.votes import against, ask, over_tasks, tally
from fedmedlora.aggregation.weighting import by_loss, equal
from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.tuning import PlusTuning
    from fedmedlora.aggregation.votes import Answer, Votes

_FEWEST_VOTERS = 3
"""Below it, a site that is left out as the judge leaves nobody to be fitted on."""


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

    def answers(shown: Mapping[str, list[AdapterState]]) -> dict[str, list[Answer]]:
        return ask(call, shown, candidates.tasks, tuning.max_score_tokens, seed)

    votes: Votes = {
        voter: against(start, dict(zip(others[voter], theirs, strict=True)), candidates.tasks)
        for voter, (*theirs, start) in answers(shown if len(shown) > 1 else {}).items()
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
    losses, errors = tally(votes, sites)
    prior = prior_of({site: candidates.sizes[site] for site in sites}, tuning.size_exponent)

    def fit(without: str | None = None) -> tuple[dict[str, float], dict[str, float]]:
        rest = {voter: given for voter, given in votes.items() if voter != without}
        seen, spread = tally(rest, sites)
        heat = temperature_of(_noise(seen, spread), tuning.least_temperature, tuning.noise_factor)
        return gibbs(prior, seen, heat), _reference(seen, sites)

    proposed, incumbent = fit()
    voters = [voter for voter, given in votes.items() if given]
    scored: list[tuple[float, float, float]] = []
    if len(voters) >= _FEWEST_VOTERS and len(sites) > 1:
        # One voter after the other, so that two merged adapters are in memory and not two each.
        for voter in voters:
            both = [candidates.merged(weights) for weights in fit(without=voter)]
            found = answers({voter: [*both, before]})
            if voter in found:
                challenger, reference, unmoved = (over_tasks(a).loss for a in found[voter])
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
