"""`gibbs-auto` and `learned`: weights from the server's own validation notes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmedlora.aggregation.decision import Candidates, Decision
from fedmedlora.aggregation.gibbs import gibbs, prior_of, temperature_of
from fedmedlora.aggregation.guard import HARM_ERRORS, Verdict, cross_fitted
from fedmedlora.aggregation.learned import learned_weights
from fedmedlora.aggregation.validation import Difference, Measurement, measure, paired
from fedmedlora.aggregation.weighting import by_loss
from fedmedlora.core.errors import AggregationError

if TYPE_CHECKING:
    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.aggregation.decision import Mode
    from fedmedlora.aggregation.strategy import Merge, Scorer
    from fedmedlora.aggregation.tuning import PlusTuning

_FEWEST_NOTES = 4
"""Below it, half of the notes is one: the incumbent stands."""


def decide_by_notes(
    mode: Mode,
    merge: Merge,
    scorer: Scorer,
    candidates: Candidates,
    before: AdapterState,
    tuning: PlusTuning,
    seed: int,
) -> Decision:
    """The guarded weights of `gibbs-auto`, of `learned`, or of whichever the notes are enough for.

    Args:
        mode: `gibbs-auto`, `learned` or `auto`.
        merge: How the adapters will be merged.
        scorer: The server's notes.
        candidates: Sound updates.
        before: The adapter that the sites started from.
        tuning: The method's numbers.
        seed: Of the notes that each step of `learned` sees.

    Raises:
        AggregationError: No site has a finite loss.
    """
    measured = measure(scorer, candidates.adapters, candidates.tasks, before)
    server_losses = {site: losses.mean() for site, losses in measured.plain.items()}
    refused = dict.fromkeys(measured.diverged, "non-finite-loss")
    measured = measured.without(refused)
    if not measured.plain:
        raise AggregationError(
            f"no adapter of {', '.join(server_losses)} has a finite loss on the server's "
            "validation notes. Lower the learning rate."
        )
    judged = measured.judge(HARM_ERRORS)
    sites = sorted(measured.plain)
    chosen = mode
    if mode == "auto":
        chosen = "learned" if judged.noise <= tuning.learned_below else "gibbs-auto"
    prior = prior_of({site: candidates.sizes[site] for site in sites}, tuning.size_exponent)
    temperature = temperature_of(judged.noise, tuning.least_temperature, tuning.noise_factor)

    def fit(on: Scorer, found: Measurement) -> dict[str, float]:
        if chosen == "learned":
            return learned_weights(
                on,
                candidates.adapters,
                prior,
                merge,
                pull=tuning.learned_pull,
                num_steps=tuning.learned_steps,
                notes_per_step=tuning.notes_per_step,
                seed=seed,
            )
        seen = found.judge(HARM_ERRORS)
        heat = temperature_of(seen.noise, tuning.least_temperature, tuning.noise_factor)
        return gibbs(prior, seen.losses, heat)

    incumbent = _reference(measured)
    if len(sites) == 1:
        proposed, verdict = incumbent, Verdict(accepted=True)
    elif measured.before.fewest_notes < _FEWEST_NOTES:
        few = Difference(0.0, math.inf, measured.before.fewest_notes)
        proposed, verdict = fit(scorer, measured), Verdict(accepted=False, difference=few)
    else:
        halves = tuple(measured.half(which) for which in (0, 1))
        first, second = (fit(scorer.half(which), halves[which]) for which in (0, 1))
        references = (_reference(halves[0]), _reference(halves[1]))
        verdict = cross_fitted(scorer, (first, second), references, candidates.merged)
        # A third descent would cost as much as both; the mean of two has seen every note.
        proposed = (
            {site: (first[site] + second[site]) / 2 for site in sites}
            if chosen == "learned"
            else fit(scorer, measured)
        )
    weights = proposed if verdict.accepted else incumbent
    record = {
        "rule": chosen,
        "server_losses": server_losses,
        "loss_before": measured.before.mean(),
        "losses": judged.losses,
        "standard_errors": judged.standard_errors,
        "noise": judged.noise,
        "prior": prior,
        "proposed_weights": proposed,
        "incumbent_weights": incumbent,
        "worse_than_before": list(judged.harmful),
        "not_compared": [site for site in sites if len(sites) > 1 and site not in judged.losses],
        "num_server_notes": measured.before.fewest_notes,
    }
    if chosen == "gibbs-auto":
        record["temperature"] = temperature

    def harm(adapter: AdapterState) -> Verdict:
        difference = paired(scorer.loss(adapter), measured.before)
        return Verdict(not difference.is_harm(HARM_ERRORS), difference)

    return Decision(
        weights,
        verdict,
        record,
        refused,
        harm,
    )


def _reference(measured: Measurement) -> dict[str, float]:
    """The weights of `reference`, which stand until they are beaten."""
    return by_loss({site: losses.mean() for site, losses in measured.plain.items()})
