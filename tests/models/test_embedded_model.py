"""The embedded base model as it lies in the cache; nothing is downloaded here."""

from __future__ import annotations

import pytest

from fedmedlora.models.catalog import preset
from fedmedlora.models.fetch import is_fetched
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.lora import initial_adapter

pytestmark = [
    pytest.mark.base_model,
    pytest.mark.skipif(
        not is_fetched("smollm2-135m"),
        reason="smollm2-135m is not in the cache; run: fedmedlora model fetch",
    ),
]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base("smollm2-135m")


def test_it_is_the_model_that_the_catalog_describes(base: BaseModel) -> None:
    wanted = preset("smollm2-135m")
    adapter = initial_adapter(base, rank=2, alpha=4.0, target_modules=wanted.target_modules, seed=0)

    assert sum(p.numel() for p in base.model.parameters()) == wanted.num_parameters
    assert len(adapter.pairs) == 30 * len(wanted.target_modules)


def test_its_tokenizer_keeps_any_text(base: BaseModel) -> None:
    text = "BP 120/80\r\n<|im_end|> <|endoftext|> e\u0301 😀 \u00a0</problem>\t½"
    ids = base.tokenizer.encode(text)

    assert base.tokenizer.decode(ids) == text
    assert not set(ids) & set(base.tokenizer.tokenizer.all_special_ids)
