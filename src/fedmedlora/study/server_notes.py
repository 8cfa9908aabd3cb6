"""The server's validation notes behind the one question that strategies ask: how good is this?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.aggregation.strategy import NoteLosses
from fedmedlora.study.data import encoded_notes, within_tokens
from fedmedlora.training.local import example_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.models.lora import LoRAModel
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.study.config import ServerNotesConfig, StudyConfig
    from fedmedlora.study.data import SiteNotes
    from fedmedlora.training.batches import EncodedExample
    from fedmedlora.training.local import Reading


class ServerNotes:
    """Labelled notes that sites gave with consent, each asked for its own site's labels only.

    Notes are taken from validation splits, never from what is trained or tested on.
    """

    def __init__(
        self,
        config: StudyConfig,
        settings: ServerNotesConfig,
        sites: tuple[SiteNotes, ...],
        model: LoRAModel,
        tags: TagFormat,
    ) -> None:
        givers = [s for s in sites if not settings.sites or s.name in settings.sites]
        share = None if settings.max_tokens is None else settings.max_tokens // len(givers)
        self._model = model
        self._batch_tokens = config.training.batch_tokens
        self._examples: list[EncodedExample] = []
        self._note_of: list[tuple[str, str]] = []
        for site in givers:
            notes = site.validation[: settings.notes_per_site]
            examples = encoded_notes(config, notes, site.labels, tags, model.base.tokenizer)
            for example in within_tokens(examples, share):
                self._examples.append(example)
                self._note_of.append((site.name, example.document_id))

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass over the notes."""
        return sum(len(example.token_ids) for example in self._examples)

    def loss(self, adapter: AdapterState) -> NoteLosses:
        """The adapter's loss by note, over the answers and over the whole sequences."""
        self._model.load(adapter)
        return NoteLosses(
            {"entities": self._by_note("completion")}, {"entities": self._by_note("sequence")}
        )

    def _by_note(self, reading: Reading) -> NDArray[np.float64]:
        losses = example_losses(
            self._model, self._examples, batch_tokens=self._batch_tokens, reading=reading
        )
        sums: dict[tuple[str, str], list[float]] = {}
        for note, (total, count) in zip(self._note_of, losses, strict=True):
            entry = sums.setdefault(note, [0.0, 0.0])
            entry[0] += total
            entry[1] += count
        return np.array([total / count for total, count in sums.values()], dtype=np.float64)
