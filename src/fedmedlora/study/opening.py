"""How readily an arm's tags open: what the study says, or what its sites' validation notes say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.inference.calibration import Opening, best_bonus, find_openings
from fedmedlora.study.conditions import POOL, client_name
from fedmedlora.study.data import rendered_notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Example, Task
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.data import SiteNotes
    from fedmedlora.study.prepare import Prepared

OPENING = "opening.json"
"""Of a run: by adapter folder and task, the bonus that was found for it."""


def open_bonus(prepared: Prepared, arm: Arm, adapter: AdapterState | None, task: Task) -> float:
    """The bonus of the arm's opening tags in this task.

    `auto` looks at the validation notes of the sites that the arm was trained on; for the start,
    which no site of the study trained, at those of all sites. A site would tell how far each place
    is from opening a tag and whether it should open one, no text; test notes are not looked at.
    """
    wanted = prepared.config.evaluation.open_bonus
    if wanted != "auto":
        return wanted
    if adapter is None:
        return 0.0
    tags = prepared.tags if task == "entities" else prepared.relations
    if tags is None:
        raise ValueError("open_bonus: the study has no task relations.")
    prepared.model.load(adapter)
    found: list[Opening] = []
    for site in prepared.notes.sites:
        names = (POOL, site.name, client_name(site.name, task))
        asked = arm.condition == "start" or any(name in arm.sites for name in names)
        if task in site.tasks and asked:
            examples = _held_out(prepared, site, task)
            tokens = prepared.settings.reading_tokens
            found += find_openings(prepared.model, examples, tags, batch_tokens=tokens)
    return round(best_bonus(found), 3)


def _held_out(prepared: Prepared, site: SiteNotes, task: Task) -> Sequence[Example]:
    """The site's validation examples, those that it judges adapters by, not encoded."""
    config, tokenizer = prepared.config, prepared.base.tokenizer
    examples = rendered_notes(config, site.validation, site, task, prepared.tags, tokenizer)
    return examples[: len(prepared.data[site.name][task].validation)]
