"""Our own way: a decoder of `fedmedlora.inference`, as users get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.ways.way import Answers, Setting, counted
from fedmedlora.core.document import Entity, Span
from fedmedlora.inference.decoders import DecoderName, make_decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.ways.sentences import Sentence
    from fedmedlora.inference.decoder import WindowAnswer
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat


class Ours:
    """A decoder by name, over a model with its adapter merged."""

    def __init__(self, base: BaseModel, tags: TagFormat, decoder: DecoderName) -> None:
        self._base, self._tags, self._decoder_name = base, tags, decoder
        self._decoders: dict[int, Any] = {}

    def answer(self, sentences: Sequence[Sentence], setting: Setting) -> Answers:
        """The entities of every sentence.

        The decoder's own counters are taken where its passes go round the network's class.
        """
        decoder = self._decoder(setting.batch_size)
        before = _counters(decoder)
        with counted(self._base.backbone) as work:
            prompts = [sentence.prompt(self._tags) for sentence in sentences]
            found = decoder.decode(prompts, lambda _: None)
        if not work.num_passes:
            for name, value in _counters(decoder).items():
                setattr(work, name, value - before[name])
        work.num_cut = sum(answer.truncated for answer in found)
        return Answers([_entities(answer) for answer in found], work)

    def _decoder(self, batch_size: int) -> Any:
        if batch_size not in self._decoders:
            self._decoders[batch_size] = make_decoder(
                self._decoder_name, self._base, self._tags, batch_size
            )
        return self._decoders[batch_size]


def _counters(decoder: DecoderName) -> dict[str, int]:
    """The decoder's running totals, where it keeps any."""
    names = ("num_passes", "num_fed_tokens")
    return {name: getattr(decoder, name) for name in names if hasattr(decoder, name)}


def _entities(answer: WindowAnswer) -> tuple[Entity, ...]:
    return tuple(
        Entity(f"T{number}", span.label, (Span(span.start, span.end),))
        for number, span in enumerate(answer.spans, start=1)
    )
