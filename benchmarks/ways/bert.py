"""The encoder that is to be beaten on speed: token classification with a BERT-base shape.

Speed does not depend on the weights, so they are random, as are the token ids; only lengths are
real. A sentence counts as many word pieces as it has tokens of our base model, plus the two marks
at its ends: no word-piece vocabulary is at hand without a model hub, and both cut clinical text at
about the same rate. Ids are ready-made, so that tokenising costs this side nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

Shape = Literal["base", "tiny"]
NUM_LABELS = 9  # begin and inside of four entities, and outside


class Bert:
    """A random encoder that gives every token a label."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: str, seed: int) -> None:
        from transformers import BertConfig, BertForTokenClassification

        small: dict[str, Any] = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
        }
        config = BertConfig(num_labels=NUM_LABELS, **(small if shape == "tiny" else {}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = BertForTokenClassification(config)
        self.model: Any = model.to(device=device, dtype=dtype).eval()
        self.num_parameters = sum(weight.numel() for weight in self.model.parameters())
        self._generator = torch.Generator().manual_seed(seed)
        self._vocabulary = config.vocab_size
        self._device = device

    def sentences(self, num_source_tokens: Sequence[int]) -> list[torch.Tensor]:
        """Random token ids of these lengths, plus the two marks."""
        return [
            torch.randint(1, self._vocabulary, (count + 2,), generator=self._generator)
            for count in num_source_tokens
        ]

    def classify(self, sentences: Sequence[torch.Tensor], batch_size: int) -> list[list[int]]:
        """The label of every token, sentences of similar length side by side."""
        order = sorted(range(len(sentences)), key=lambda index: -len(sentences[index]))
        labels: list[list[int]] = [[]] * len(sentences)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                length = len(sentences[batch[0]])
                ids = torch.zeros((len(batch), length), dtype=torch.long)
                mask = torch.zeros((len(batch), length), dtype=torch.long)
                for row, index in enumerate(batch):
                    ids[row, : len(sentences[index])] = sentences[index]
                    mask[row, : len(sentences[index])] = 1
                # Without padding the mask would only keep attention off its fast path.
                logits = self.model(
                    input_ids=ids.to(self._device),
                    attention_mask=None if bool(mask.all()) else mask.to(self._device),
                ).logits
                rows = logits.argmax(dim=-1).tolist()
                for row, index in enumerate(batch):
                    labels[index] = rows[row][: len(sentences[index])]
        return labels
