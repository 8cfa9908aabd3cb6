"""Our own way and the encoder do real work, and count it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from benchmarks.ways import ours as ours_module
from benchmarks.ways.adapters import Training, trained_adapter
from benchmarks.ways.bert import NUM_LABELS, Bert
from benchmarks.ways.ours import Ours
from benchmarks.ways.quality import quality_rows
from benchmarks.ways.scaling import entity_groups, length_groups
from benchmarks.ways.sentences import Sentence
from benchmarks.ways.way import Setting, all_at_once, one_by_one
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer
from fedmedlora.inference.decoders import DecoderName
from fedmedlora.models.load import BaseModel
from fedmedlora.prompts.registry import get_format

COMPACT = get_format("compact")


@pytest.mark.parametrize("decoder", get_args(DecoderName))
def test_ours_answers_every_sentence_and_its_passes_are_seen(
    base: BaseModel, sentences: list[Sentence], decoder: DecoderName
) -> None:
    ways = Ours(base, COMPACT, decoder)

    one, many = (ways.answer(sentences, Setting(size)) for size in (1, len(sentences)))

    assert one.entities == many.entities
    assert len(one.entities) == len(sentences)
    assert 0 < many.work.num_passes < one.work.num_passes
    # An instruction may be read once for all; every sentence has to be read and copied.
    sources = [len(base.tokenizer.encode(sentence.document.text)) for sentence in sentences]
    assert one.work.num_fed_tokens > 2 * sum(sources)


def test_sentences_that_come_one_at_a_time_are_asked_in_calls_of_their_own(
    base: BaseModel, sentences: list[Sentence]
) -> None:
    way = Ours(base, COMPACT, "copy")
    way.answer(sentences[:1], Setting(1))  # from now on the instruction is known
    each = [way.answer([sentence], Setting(1)) for sentence in sentences]

    found = one_by_one(way, sentences, Setting(1))

    assert found.entities == all_at_once(way, sentences, Setting(1)).entities
    assert found.work.num_passes == sum(answers.work.num_passes for answers in each)
    assert found.work.num_fed_tokens == sum(answers.work.num_fed_tokens for answers in each)


def test_where_no_pass_is_seen_the_decoders_own_counters_are_taken_for_this_call_only(
    base: BaseModel, sentences: list[Sentence], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting:
        num_passes, num_fed_tokens = 100, 1000

        def decode(self, prompts: Any, on_done: Any) -> list[WindowAnswer]:
            self.num_passes += 7
            self.num_fed_tokens += 70
            return [WindowAnswer((FoundSpan("drug", 0, 2, -0.1),)) for _ in prompts]

    decoder = Counting()
    monkeypatch.setattr(ours_module, "make_decoder", lambda *_: decoder)
    way = Ours(base, COMPACT, "step")
    way.answer(sentences, Setting(4))

    found = way.answer(sentences, Setting(4))

    assert (found.work.num_passes, found.work.num_fed_tokens) == (7, 70)
    assert [(e.label, e.start, e.end) for e in found.entities[0]] == [("drug", 0, 2)]


def test_the_encoder_has_the_shape_of_bert_base_by_default() -> None:
    with torch.device("meta"):
        from transformers import BertConfig, BertForTokenClassification

        model = BertForTokenClassification(BertConfig(num_labels=NUM_LABELS))

    assert 108e6 < sum(weight.numel() for weight in model.parameters()) < 111e6


def test_the_encoder_gives_the_same_labels_at_every_batch_size() -> None:
    bert = Bert("tiny", torch.float32, "cpu", seed=0)
    ids = bert.sentences([5, 1, 9, 5])

    alone, together = bert.classify(ids, 1), bert.classify(ids, 4)

    assert alone == together
    assert [len(labels) for labels in alone] == [7, 3, 11, 7]
    assert len({label for labels in alone for label in labels}) > 1


def test_gold_answers_score_one_hundred_and_no_answer_scores_nothing(
    sentences: list[Sentence],
) -> None:
    gold = [sentence.document.entities for sentence in sentences]

    rows = quality_rows(sentences, {"right": gold, "silent": [()] * len(gold)}, "right")

    assert [row[1] for row in rows] == [100, 0]
    assert rows[1][5] == -100
    assert rows[0][-1] == len(gold)
    assert rows[1][-1] == sum(not entities for entities in gold)


def test_groups_hold_every_sentence_once(sentences: list[Sentence]) -> None:
    for groups in (length_groups(sentences, 3), entity_groups(sentences)):
        grouped = [s.document.id for group in groups.values() for s in group]
        assert sorted(grouped) == sorted(s.document.id for s in sentences)


def test_an_adapter_is_trained_once_and_changes_with_how_it_is_trained(
    base: BaseModel, tmp_path: Path
) -> None:
    said: list[str] = []
    training = Training(
        examples=6, examples_a_step=2, rank=2, alpha=4.0, learning_rate=1e-3, seed=0
    )

    first = trained_adapter(base, COMPACT, training, tmp_path, said.append)
    num_said = len(said)
    again = trained_adapter(base, COMPACT, training, tmp_path, said.append)
    other = trained_adapter(
        base, COMPACT, replace(training, learning_rate=2e-3), tmp_path, said.append
    )

    assert num_said > 0
    assert first.digest() == again.digest() != other.digest()
    assert len(said) == 2 * num_said
    assert any(bool(pair.B.any()) for pair in first.pairs.values())
