"""Tokenising by piece: what goes in comes out, and no note text becomes a special token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from fedmedlora.core.errors import ModelError
from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.prompts.pieces import cut
from fedmedlora.testing.generators import note_texts
from fedmedlora.testing.tiny import tiny_tokenizer


def byte_level(*, prefix_space: bool = False, **special: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special.values(), *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentencepiece_like() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"painx81<"]
    vocabulary = {token: index for index, token in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@settings(deadline=None)
@given(note_texts())
def test_tokens_of_pieces_decode_to_the_text(text: str) -> None:
    tokenizer = PieceTokenizer(tiny_tokenizer(), "tiny")
    ids = [t for p in cut(text) for t in tokenizer.encode(text[p.start : p.end])]

    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["<|end|>", " <|begin|> ", "a<|end|>b", "<|end|><|end|>"])
def test_special_tokens_that_a_note_spells_out_are_plain_text(text: str) -> None:
    tokenizer = PieceTokenizer(tiny_tokenizer(), "tiny")
    ids = tokenizer.encode(text)

    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tiny_tokenizer().all_special_ids)


def test_the_same_piece_has_the_same_tokens_each_time() -> None:
    tokenizer = PieceTokenizer(tiny_tokenizer(), "tiny")

    assert tokenizer.encode(" aspirin") == tokenizer.encode(" aspirin")
    assert tokenizer.encode(" aspirin") != tokenizer.encode("aspirin")


def test_a_byte_level_tokenizer_is_accepted_with_or_without_a_begin_token() -> None:
    from tokenizers.processors import TemplateProcessing

    plain = byte_level(bos_token="<s>", eos_token="</s>")
    beginning = byte_level(bos_token="<s>", eos_token="</s>")
    beginning.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )

    assert PieceTokenizer(plain, "plain").begin_ids == ()
    assert PieceTokenizer(beginning, "beginning").begin_ids == (0,)
    assert PieceTokenizer(beginning, "beginning").encode("x") == PieceTokenizer(plain, "p").encode(
        "x"
    )


@pytest.mark.parametrize(
    "tokenizer",
    [byte_level(prefix_space=True, eos_token="</s>"), sentencepiece_like()],
    ids=["byte level with a space in front", "SentencePiece"],
)
def test_a_tokenizer_that_puts_a_space_before_each_piece_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"model-x: .*Expected a byte-level tokenizer"):
        PieceTokenizer(tokenizer, "model-x")


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    with pytest.raises(ModelError, match="model-x: the tokenizer has no end-of-sequence token"):
        PieceTokenizer(byte_level(), "model-x")
