"""What a strategy wrote down about its weights: losses, errors, lengths, directions, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from fedmedlora.report import figures
from fedmedlora.report.panels import Panel, site_colours
from fedmedlora.report.svg import DARK, PALETTE
from fedmedlora.report.tables import rounds_by_arm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.records import RoundRecord
    from fedmedlora.report.finished_run import FinishedRun

# Key in the strategy's record, heading, digits.
_COLUMNS = (
    ("sizes", "Size", 0),
    ("server_losses", "Loss on server notes", 4),
    ("losses", "Beyond the median site", 4),
    ("standard_errors", "Standard error", 4),
    ("prior", "Prior", 3),
    ("incumbent_weights", "Weight by reference", 3),
    ("proposed_weights", "Weight proposed", 3),
    ("delta_norms", "Length of change", 3),
    ("cosines", "Cosine with others", 2),
    ("clipped_to", "Clipped to", 3),
    ("scores", "Krum score", 3),
    ("distances", "Distance to the median", 3),
)
# Key of a list of sites, and what is true of them.
_NAMED = (
    ("worse_than_before", "Worse alone than the adapter before"),
    ("not_compared", "Compared with no other site, for want of notes with labels of both"),
    ("without_vote", "Without a vote"),
    ("held_at_cap", "Held at the cap of a weight"),
)
_OF_VOTES = {"losses": "Median vote, against the adapter before"}
_ALWAYS = ("server_losses", "losses", "delta_norms")


@dataclass(frozen=True, slots=True)
class DecidedRound:
    """One round: sentences about it, and for each site a row of cells."""

    round_index: int
    sentences: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Decisions:
    """The rounds of one arm, under the headings that some round of it fills."""

    arm: str
    headings: tuple[str, ...]
    rounds: tuple[DecidedRound, ...]


def decisions(run: FinishedRun) -> list[Decisions]:
    """Every federated arm whose strategy wrote down how it came to its weights."""
    found = []
    for arm, records in _decided(run).items():
        columns = [c for c in _COLUMNS if any(_numbers(r.notes, c[0]) for r in records)]
        by_votes = any(record.notes.get("rule") == "cross-eval" for record in records)
        extra = [
            (heading, tell)
            for heading, tell in (("Votes", _votes), ("Findings", _findings))
            if any(tell(record, site) for record in records for site in _sites(record))
        ]
        headings = [
            _OF_VOTES.get(key, heading) if by_votes else heading for key, heading, _ in columns
        ]
        rounds = tuple(
            DecidedRound(
                record.round_index,
                tuple(_sentences(record)),
                tuple(
                    (
                        site,
                        (
                            _number(record.weights.get(site), 3),
                            *(
                                _number(_numbers(record.notes, key).get(site), digits)
                                for key, _, digits in columns
                            ),
                            *(tell(record, site) or None for _, tell in extra),
                        ),
                    )
                    for site in _sites(record)
                ),
            )
            for record in records
        )
        headings = ["Weight", *headings, *(heading for heading, _ in extra)]
        found.append(Decisions(arm, tuple(headings), rounds))
    return found


def decision_panels(run: FinishedRun) -> list[Panel]:
    """By arm, each site's loss on the server's notes, and that of the adapter before the round."""
    colours = site_colours(run)
    curves: dict[str, list[figures.Line]] = {}
    for arm, records in _decided(run).items():
        points: dict[str, list[tuple[int, float]]] = {}
        before: list[tuple[int, float]] = []
        for record in records:
            for site, loss in _numbers(record.notes, "server_losses").items():
                points.setdefault(site, []).append((record.round_index, loss))
            start = record.notes.get("loss_before")
            if _is_number(start):
                before.append((record.round_index, float(start)))
        lines = [
            figures.Line(site, points[site], colour, dash=i // len(PALETTE))
            for i, (site, colour) in enumerate(colours.items())
            if site in points
        ]
        if before:
            lines.append(figures.Line("adapter before", before, DARK, dash=1))
        if points:
            curves[arm] = lines
    values = [value for lines in curves.values() for line in lines for _, value in line.points]
    if not values:
        return []
    span = (min(values), max(values))
    return [
        Panel(arm, figures.round_lines(lines, values=span, title=f"loss on server notes, {arm}"))
        for arm, lines in curves.items()
    ]


def _decided(run: FinishedRun) -> dict[str, list[RoundRecord]]:
    """Rounds by federated arm, of the arms that have anything to tell."""
    return {
        arm: records
        for arm, records in rounds_by_arm(run).items()
        if arm in run.federated_arms
        and any(_numbers(record.notes, key) for record in records for key in _ALWAYS)
    }


def _sites(record: RoundRecord) -> Sequence[str]:
    named = {site for key, _, _ in _COLUMNS for site in _numbers(record.notes, key)}
    return sorted({*record.sites, *record.failed, *named})


def _sentences(record: RoundRecord) -> list[str]:
    notes = record.notes
    by_votes = notes.get("rule") == "cross-eval"
    found = []
    if isinstance(notes.get("rule"), str) and notes["rule"] != notes.get("mode"):
        found.append(f"Rule {notes['rule']}.")
    if _is_number(notes.get("temperature")):
        found.append(f"Temperature {notes['temperature']:.3g}.")
    if _is_number(notes.get("noise")):
        count = notes.get("num_server_notes")
        on = f", on {count} notes of the task with the fewest" if _is_number(count) else ""
        found.append(f"Noise of a difference between sites {notes['noise']:.4g}{on}.")
    joined = _names(notes, "joined")
    if joined:
        loss = notes.get("soup_loss")
        at = f", which has loss {loss:.4f}" if _is_number(loss) else ""
        found.append(f"In the soup{at}, in the order in which they joined: {joined}.")
    guard = _verdict(notes, "guard", by_votes)
    if guard is not None:
        accepted, measured = guard
        taken = "The proposed weights were taken" if accepted else "The weights of reference stayed"
        found.append(f"{taken}{measured}.")
    follow = _verdict(notes, "may_follow", by_votes)
    if follow is not None:
        accepted, measured = follow
        sent = (
            "The merged adapter went out" if accepted else "The adapter before the round was kept"
        )
        found.append(f"{sent}{measured}.")
    if _is_number(notes.get("energy_kept")):
        found.append(f"The rank holds {100 * notes['energy_kept']:.2f} % of the merge's energy.")
    if _is_number(notes.get("median_delta_norm")):
        found.append(f"The median change is {notes['median_delta_norm']:.4g} long.")
    for key, what in _NAMED:
        if names := _names(notes, key):
            found.append(f"{what}: {names}.")
    return found


def _verdict(notes: Mapping[str, Any], key: str, by_votes: bool) -> tuple[bool, str] | None:
    """Whether it was accepted, and the measured difference in words."""
    verdict = notes.get(key)
    if not isinstance(verdict, Mapping) or not isinstance(verdict.get("accepted"), bool):
        return None
    difference, error = verdict.get("difference"), verdict.get("standard_error")
    if not _is_number(difference) or not _is_number(error):
        return verdict["accepted"], ""
    count = verdict.get("num_notes")
    unit = "voting sites" if by_votes else "notes"
    against = "reference" if key == "guard" else "the adapter before"
    return (
        verdict["accepted"],
        f": loss {difference:+.4f} against {against} (standard error {error:.4f}, {count} {unit})",
    )


def _findings(record: RoundRecord, site: str) -> str:
    """The flags of a site, or why it was left out."""
    if site in record.failed:
        return f"left out ({record.failed[site]})"
    flags = record.notes.get("flags")
    own = flags.get(site) if isinstance(flags, Mapping) else None
    return ", ".join(map(str, own)) if isinstance(own, list) else ""


def _votes(record: RoundRecord, site: str) -> str:
    """What every other site said of this one."""
    votes = record.notes.get("votes")
    if not isinstance(votes, Mapping):
        return ""
    given = {voter: _numbers(votes, voter).get(site) for voter in sorted(votes)}
    return ", ".join(f"{voter} {vote:+.4f}" for voter, vote in given.items() if vote is not None)


def _names(notes: Mapping[str, Any], key: str) -> str:
    names = notes.get(key)
    return ", ".join(map(str, names)) if isinstance(names, list) else ""


def _numbers(notes: Mapping[str, Any], key: str) -> dict[str, float]:
    """The numbers by site under a key; a strategy may have put something else there."""
    table = notes.get(key)
    if not isinstance(table, Mapping):
        return {}
    return {site: float(value) for site, value in table.items() if _is_number(value)}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
