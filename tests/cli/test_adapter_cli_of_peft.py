"""`adapter merge | inspect` on folders that peft itself has written; peft is the oracle, too."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.models.load import BaseModel
from fedmedlora.testing.tiny import tiny_base

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

TARGETS = ["q_proj", "down_proj"]  # neither is square
Deltas = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(tmp_path_factory.mktemp("tiny"))


def model_of(base: BaseModel, **options: Any) -> Any:
    settings = {"r": 2, "lora_alpha": 4, "target_modules": TARGETS, "init_lora_weights": False}
    config = peft.LoraConfig(**(settings | options), task_type="CAUSAL_LM")
    return peft.get_peft_model(copy.deepcopy(base.model), config)


def deltas_of(model: Any) -> Deltas:
    """By module, what peft itself adds to the weight."""
    return {
        name: layer.get_delta_weight("default").detach().double().numpy()
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


Write = Callable[..., tuple[Path, Deltas]]


@pytest.fixture
def write(base: BaseModel, tmp_path: Path) -> Write:
    """A folder by peft's own `save_pretrained`, and what peft computes with it."""

    def written(name: str, **options: Any) -> tuple[Path, Deltas]:
        torch.manual_seed(len(name))
        model = model_of(base, **options)
        model.save_pretrained(str(tmp_path / name), save_embedding_layers=False)
        return tmp_path / name, deltas_of(model)

    return written


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = run_app(app, ["adapter", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (("--strategy", "uniform"), [1 / 3] * 3),
        (("--strategy", "fedavg", "--weights", "1,2,5"), [1 / 8, 2 / 8, 5 / 8]),
        (("--strategy", "fedmedlora-plus", "--losses", "0.5,0.5,0.5"), [1 / 3] * 3),
    ],
    ids=["uniform", "fedavg", "plus"],
)
def test_folders_of_several_ranks_alphas_and_rslora_merge_to_the_mean_of_what_peft_computes(
    base: BaseModel,
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    shares: list[float],
) -> None:
    made = [
        write("a", r=2, lora_alpha=4),
        write("bb", r=4, lora_alpha=4, use_rslora=True),
        write("ccc", r=1, lora_alpha=16),
    ]
    out = tmp_path / "out"
    # Rank 7 holds all of three adapters of rank 2, 4 and 1.
    words = ("--out", out, *options, "--merge", "product", "--rank", 7)

    code, _, err = run(capsys, "merge", *(folder for folder, _ in made), *words)

    assert code == 0, err
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), str(out))
    got = deltas_of(loaded)
    assert len(got) == 4
    for module, delta in got.items():
        parts = [share * deltas[module] for share, (_, deltas) in zip(shares, made, strict=True)]
        wanted = np.sum(parts, axis=0)
        assert np.linalg.norm(delta - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_folders_of_one_kind_merge_by_factors_as_numpy_does(
    base: BaseModel, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file

    made = [write("a")[0], write("bb")[0]]
    words = ("--out", tmp_path / "out", "--strategy", "fedavg", "--weights", "1,3")
    assert run(capsys, "merge", *made, *words)[0] == 0

    name = "adapter_model.safetensors"
    one, two, found = (load_file(folder / name) for folder in (*made, tmp_path / "out"))
    assert found.keys() == one.keys()
    for key, tensor in found.items():
        assert tensor == pytest.approx(0.25 * one[key] + 0.75 * two[key], abs=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_inspection_tells_the_norms_of_what_peft_computes(
    write: Write, capsys: pytest.CaptureFixture[str], rslora: bool
) -> None:
    folder, deltas = write("a", r=3, lora_alpha=5, use_rslora=rslora)
    other, others = write("bb", r=2, lora_alpha=8)

    code, out, err = run(capsys, "inspect", folder, "--against", other, "--json")

    assert code == 0, err
    told = json.loads(out)
    for row in told["modules"]:
        assert row["norm"] == pytest.approx(np.linalg.norm(deltas[row["module"]]), rel=1e-5)
    both = [np.concatenate([d[m].ravel() for m in sorted(d)]) for d in (deltas, others)]
    assert told["against"]["distance"] == pytest.approx(np.linalg.norm(both[0] - both[1]), rel=1e-5)
    assert (told["rank"], told["rslora"]) == (3, rslora)


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "use_dora"),
    "ranks by module": ({"rank_pattern": {"q_proj": 1}}, "rank_pattern"),
    "alphas by module": ({"alpha_pattern": {"q_proj": 1}}, "alpha_pattern"),
    "a head beside it": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": ({"bias": "lora_only"}, "bias"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_folder_of_a_kind_that_would_be_computed_wrongly_is_named_with_what_to_do(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    options, option = UNKNOWN[kind]
    good, _ = write("a")
    bad, _ = write("bb", **options)

    for words in (
        ("merge", good, bad, "--out", tmp_path / "out", "--strategy", "uniform"),
        ("inspect", bad),
    ):
        code, _, err = run(capsys, *words)
        assert code == 1
        assert str(bad) in err
        assert option in err
        assert "Train it without these." in err
    assert not (tmp_path / "out").exists()


def test_folders_of_other_ranks_say_which_merge_takes_them(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [write("a")[0], write("bb", r=4)[0]]
    words = ("--out", tmp_path / "out", "--strategy", "fedavg")
    code, _, err = run(capsys, "merge", *made, *words)
    assert code == 1
    assert "--merge product" in err


def test_folders_for_other_modules_or_another_base_model_say_what_is_to_be_done(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = write("a")
    other, _ = write("bb", target_modules=["q_proj"])
    words = ("--out", tmp_path / "out", "--strategy", "uniform", "--merge", "product")

    code, _, err = run(capsys, "merge", first, other, *words)
    assert (code, str(other) in err) == (1, True)
    assert "modules differ; 2 missing, 0 unexpected. Train all adapters with the same" in err

    config = json.loads((other / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = "somewhere/else"
    (other / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    code, _, err = run(capsys, "merge", first, other, *words)
    assert (code, "base_model differs" in err) == (1, True)
    assert "base_model_name_or_path" in err
