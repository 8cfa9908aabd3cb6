"""Tokenising text piece by piece, so that training and decoding see the same tokens."""

from __future__ import annotations

from typing import Any

from fedmedlora.core.errors import ModelError

_PROBES = ("pain", " pain", "81", " 81", "<", " <", "\n", "\r\n", "\t", "é", "😀", "  x")
_CACHE_SIZE = 100_000


class PieceTokenizer:
    """A tokenizer for pieces: `encode(a) + encode(b)` always decodes to `a + b`.

    Raises:
        ModelError: The tokenizer adds or drops characters when a piece stands alone (tokenizers
            of the SentencePiece kind do), or has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, tuple[int, ...]] = {}
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{name}: the tokenizer has no end-of-sequence token.")
        self.end_id: int = tokenizer.eos_token_id
        first = tokenizer("x").input_ids
        begin = tokenizer.bos_token_id
        self.begin_ids: tuple[int, ...] = (
            (begin,) if begin is not None and first[0] == begin else ()
        )
        for probe in _PROBES:
            if self.decode(self.encode(probe)) != probe:
                raise ModelError(
                    f"{name}: the tokenizer does not keep a piece of text as it is when the piece "
                    "stands alone. Expected a byte-level tokenizer (Llama-3, Qwen, SmolLM2, GPT-2)."
                )

    def encode(self, piece: str) -> tuple[int, ...]:
        """The token ids of one piece, without special tokens."""
        found = self._cache.get(piece)
        if found is None:
            ids = self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
            found = tuple(ids.input_ids)
            if len(self._cache) < _CACHE_SIZE:
                self._cache[piece] = found
        return found

    def decode(self, ids: tuple[int, ...] | list[int]) -> str:
        """The text of token ids."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
