"""`learned`: the weights that make the merged model do best on the server's notes.

F(w) = L(merged(w)) + lambda KL(w || pi) over the simplex, by proximal mirror descent. One backward
pass gives d L / d w_i of every site, however many there are: to first order, what each site does
for the loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmedlora.core.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.strategy import Merge, Scorer


def learned_weights(
    scorer: Scorer,
    adapters: Mapping[str, AdapterState],
    prior: Mapping[str, float],
    merge: Merge,
    *,
    pull: float,
    num_steps: int,
    notes_per_step: int,
    seed: int,
) -> dict[str, float]:
    """The weights: the mean over the later half of the steps, as steps see a part of the notes.

    A site of prior 0 stays out. The first step moves the log weights by 1 at most before the pull.

    Args:
        scorer: The notes to do well on.
        adapters: By site.
        prior: pi; also where the descent starts.
        merge: How the adapters will be merged.
        pull: lambda, in nats: how large an advantage moves a log weight by 1.
        num_steps: Backward passes.
        notes_per_step: Notes of each task that one of them sees.
        seed: Which notes those are.
    """
    sites = [site for site in sorted(prior) if prior[site] > 0]
    present = {site: adapters[site] for site in sites}
    start = {site: math.log(prior[site]) for site in sites}
    logs = dict(start)
    total = dict.fromkeys(sites, 0.0)
    num_later = 0
    rate = 0.0
    for step in range(num_steps):
        notes = scorer.drawn(notes_per_step, derive_seed(seed, "learned", step))
        weights = _softmax(logs)
        gradient = notes.weight_gradient(present, weights, merge)
        if not all(math.isfinite(slope) for slope in gradient.values()):
            break
        mean = math.fsum(gradient.values()) / len(sites)
        steepest = max(abs(slope - mean) for slope in gradient.values())
        if not rate:
            if steepest == 0:
                break
            rate = 1 / steepest
        logs = {
            site: (logs[site] + rate * pull * start[site] - rate * (gradient[site] - mean))
            / (1 + rate * pull)
            for site in sites
        }
        if step >= num_steps // 2:
            num_later += 1
            for site, weight in _softmax(logs).items():
                total[site] += weight
    if not num_later:
        return dict(prior)
    found = {site: value / num_later for site, value in total.items()}
    return {site: found.get(site, 0.0) for site in sorted(prior)}


def _softmax(logs: Mapping[str, float]) -> dict[str, float]:
    highest = max(logs.values())
    shares = {site: math.exp(value - highest) for site, value in logs.items()}
    total = math.fsum(shares.values())
    return {site: share / total for site, share in shares.items()}
