"""`adapter merge | inspect`, against dense computations in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmedlora.adapters.files import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from fedmedlora.adapters.ranks import change_rank
from fedmedlora.adapters.state import AdapterState, LoRAPair
from fedmedlora.cli.app import app
from fedmedlora.cli.console import run_app
from fedmedlora.testing.adapters import random_adapter
from fedmedlora.testing.tiny import tiny_base

Run = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The JSON that a command prints."""

    def command(*words: object) -> Any:
        assert run_app(app, ["adapter", *map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return command


@pytest.fixture
def faults(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and error text of a command that must fail."""

    def command(*words: object) -> tuple[int, str]:
        code = run_app(app, ["adapter", *map(str, words)])
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    return command


@pytest.fixture
def sites(tmp_path: Path) -> list[Path]:
    """Three folders, of ranks 2, 2 and 3; the first two can be averaged by factors."""
    made = [random_adapter(1), random_adapter(2), random_adapter(3, rank=3, alpha=7, rslora=True)]
    for name, adapter in zip(("b", "a", "c"), made, strict=True):
        save_adapter(tmp_path / name, adapter)
    return [tmp_path / name for name in ("b", "a", "c")]


def dense(folder: Path, module: str) -> np.ndarray:
    adapter = load_adapter(folder)
    pair = adapter.pairs[module]
    return adapter.spec.scaling * (pair.B.double() @ pair.A.double()).numpy()


MODULES = list(random_adapter(0).pairs)


def test_factors_are_averaged_with_the_weights_in_the_order_of_the_folders(
    sites: list[Path], tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    found = run("merge", *sites[:2], "--out", out, "--strategy", "fedavg", "--weights", "0.75,0.25")
    merged, b, a = (load_adapter(folder) for folder in (out, *sites[:2]))
    for module in MODULES:
        wanted = 0.75 * b.pairs[module].B + 0.25 * a.pairs[module].B
        assert merged.pairs[module].B.numpy() == pytest.approx(wanted.numpy(), abs=1e-6)
    assert {row["adapter"]: row["weight"] for row in found["adapters"]} == {
        str(sites[0]): 0.75,
        str(sites[1]): 0.25,
    }
    assert merged.spec == b.spec


def test_products_of_several_ranks_and_scales_are_averaged(
    sites: list[Path], tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    words = ("--strategy", "fedavg", "--weights", "3,1,4", "--merge", "product")
    found = run("merge", *sites, "--out", out, *words)
    shares = (3 / 8, 1 / 8, 4 / 8)
    kept = whole = 0.0
    for module in MODULES:
        mean = sum(w * dense(folder, module) for w, folder in zip(shares, sites, strict=True))
        u, s, vt = np.linalg.svd(mean, full_matrices=False)
        cut = (u[:, :3] * s[:3]) @ vt[:3]
        assert dense(out, module) == pytest.approx(cut, abs=1e-5 * float(s[0]))
        kept, whole = kept + float((s[:3] ** 2).sum()), whole + float((s**2).sum())
    assert found["record"]["energy_kept"] == pytest.approx(kept / whole, rel=1e-6)
    assert found["rank"] == load_adapter(out).spec.rank == 3

    run("merge", *sites, "--out", out, *words, "--rank", 8)  # the result before is replaced
    assert load_adapter(out).spec.rank == 8
    for module in MODULES:
        mean = sum(w * dense(folder, module) for w, folder in zip(shares, sites, strict=True))
        assert dense(out, module) == pytest.approx(mean, abs=1e-4)


def test_losses_give_the_weights_of_the_published_rule(
    sites: list[Path], tmp_path: Path, run: Run
) -> None:
    words = ("--out", tmp_path / "out", "--strategy", "fedmedlora-plus", "--losses", "1,1.5")
    found = run("merge", *sites[:2], *words)
    weights = [row["weight"] for row in found["adapters"]]  # by name: a, then b
    total = math.exp(-1) + math.exp(-1.5)
    assert weights == pytest.approx([math.exp(-1.5) / total, math.exp(-1) / total])
    found = run("merge", *sites[:2], *words, "--weights", "10,30")
    weights = [row["weight"] for row in found["adapters"]]
    total = 10 * math.exp(-1) + 30 * math.exp(-1.5)
    assert weights == pytest.approx([30 * math.exp(-1.5) / total, 10 * math.exp(-1) / total])


def test_the_order_of_the_folders_changes_no_bit(
    sites: list[Path], tmp_path: Path, run: Run
) -> None:
    words = ("--strategy", "uniform", "--merge", "product")
    run("merge", *sites, "--out", tmp_path / "one", *words)
    run("merge", *reversed(sites), "--out", tmp_path / "two", *words)
    assert load_adapter(tmp_path / "one") == load_adapter(tmp_path / "two")


def test_other_strategies_merge_in_their_own_way(tmp_path: Path, run: Run) -> None:
    start = random_adapter(0)
    save_adapter(tmp_path / "start", start)
    folders = [tmp_path / f"site-{i}" for i in range(5)]
    for i, folder in enumerate(folders):
        length = 100.0 if i == 4 else 0.1
        step = random_adapter(i + 1)
        save_adapter(
            folder,
            AdapterState(
                start.spec,
                {m: LoRAPair(p.A, p.B + length * step.pairs[m].B) for m, p in start.pairs.items()},
            ),
        )
    found = run(
        "merge", *folders, "--out", tmp_path / "out", "--strategy", "multi-krum",
        "--before", tmp_path / "start",
    )  # fmt: skip
    weights = {row["adapter"]: row["weight"] for row in found["adapters"]}
    assert weights == {str(f): 0.0 if f is folders[4] else 0.25 for f in folders}
    assert found["record"]["flags"] == {str(folders[4]): ["norm-clipped"]}


def test_with_the_adapter_before_a_site_gone_mad_moves_little_and_is_named(
    tmp_path: Path, run: Run
) -> None:
    start = random_adapter(0)
    save_adapter(tmp_path / "start", start)
    for name, factor in (("a", 1.1), ("b", 1.2), ("mad", 1000.0)):
        pairs = {m: LoRAPair(p.A, p.B * factor) for m, p in start.pairs.items()}
        save_adapter(tmp_path / name, AdapterState(start.spec, pairs))
    folders = [tmp_path / name for name in ("a", "b", "mad")]
    words = ("--out", tmp_path / "out", "--strategy", "uniform", "--merge", "product")
    found = run("merge", *folders, *words, "--before", tmp_path / "start")
    # Deltas of 0.1, 0.2 and 999 times the start; the last is cut to 3 * 0.2.
    assert dense(tmp_path / "out", MODULES[0]) == pytest.approx(
        (1 + (0.1 + 0.2 + 0.6) / 3) * dense(tmp_path / "start", MODULES[0]), rel=1e-4
    )
    assert found["record"]["flags"] == {str(tmp_path / "mad"): ["norm-clipped"]}
    assert found["record"]["clipped_to"] == {
        str(tmp_path / "mad"): pytest.approx(0.6 / 999, rel=1e-3)
    }

    found = run("merge", *folders, *words)  # nobody knows what is a change: the plain mean
    assert dense(tmp_path / "out", MODULES[0]) == pytest.approx(
        (1.1 + 1.2 + 1000) / 3 * dense(tmp_path / "start", MODULES[0]), rel=1e-4
    )
    assert found["record"]["flags"] == {}


def test_an_adapter_that_is_not_finite_is_left_out_by_name(
    sites: list[Path], tmp_path: Path, run: Run
) -> None:
    bad = random_adapter(5)
    pairs = {m: LoRAPair(p.A, p.B * math.nan) for m, p in bad.pairs.items()}
    save_adapter(tmp_path / "bad", AdapterState(bad.spec, pairs))
    for how in ("factor", "product"):
        words = ("--out", tmp_path / "out", "--strategy", "uniform", "--merge", how)
        found = run("merge", *sites[:2], tmp_path / "bad", *words)
        assert found["refused"] == {str(tmp_path / "bad"): "non-finite"}
        assert [row["weight"] for row in found["adapters"]] == [0.5, 0.5, 0.0]
        assert load_adapter(tmp_path / "out").is_finite()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_peft_loads_the_result_and_computes_the_mean(tmp_path: Path, run: Run) -> None:
    peft = pytest.importorskip("peft")
    base = tiny_base(tmp_path / "tiny")
    names = [n for n, m in base.model.named_modules() if n.endswith(("q_proj", "down_proj"))]
    shapes = {name: tuple(base.model.get_submodule(name).weight.shape) for name in names}
    for seed, rank in ((1, 2), (2, 3)):
        save_adapter(tmp_path / str(seed), random_adapter(seed, rank=rank, shapes=shapes))
    run(
        "merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "out", "--strategy",
        "uniform", "--merge", "product", "--rank", 5,
    )  # fmt: skip
    model = peft.PeftModel.from_pretrained(base.model, tmp_path / "out")
    for name in names:
        layer = model.base_model.model.get_submodule(name)
        wanted = sum(dense(tmp_path / str(i), name) for i in (1, 2)) / 2
        got = layer.get_delta_weight("default").detach().numpy()
        assert got == pytest.approx(wanted, abs=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--strategy", "fedavgg"], 2, "--strategy fedavgg: not known; expected one of"),
        (["--strategy", "fedavg", "--weights", "1"], 2, "one number for each of 2 folders, got 1"),
        (
            ["--strategy", "fedavg", "--weights", "1,x"],
            2,
            "--weights: expected numbers with commas",
        ),
        (["--strategy", "fedavg", "--weights", "1,-1"], 2, "expected numbers >= 0"),
        (["--strategy", "uniform", "--weights", "1,2"], 2, "`uniform` has none"),
        (["--strategy", "fedmedlora-plus"], 2, "--losses: needed by"),
        (["--strategy", "fedavg", "--losses", "1,2"], 2, "by no other strategy"),
        (["--strategy", "multi-krum", "--merge", "product"], 2, "merges in its own way"),
        (["--strategy", "multi-krum"], 1, "needs 5"),
        (["--strategy", "uniform", "--rank", "0"], 2, "rank"),
    ],
)
def test_a_wrong_request_is_named_and_writes_nothing(
    words: list[str],
    code: int,
    text: str,
    sites: list[Path],
    tmp_path: Path,
    faults: Callable[..., tuple[int, str]],
) -> None:
    got, said = faults("merge", *sites[:2], "--out", tmp_path / "out", *words)
    assert got == code
    assert text in said
    assert not (tmp_path / "out").exists()


def test_adapters_that_do_not_fit_are_named(
    sites: list[Path], tmp_path: Path, faults: Callable[..., tuple[int, str]]
) -> None:
    words = ("--out", tmp_path / "out", "--strategy", "uniform")
    code, text = faults("merge", *sites, *words)
    assert code == 1
    assert "merged with --merge product" in text
    assert str(sites[1]) in text or str(sites[2]) in text
    save_adapter(tmp_path / "other", random_adapter(1, base_model="llama"))
    code, text = faults("merge", sites[0], tmp_path / "other", *words, "--merge", "product")
    assert code == 1
    assert f"{tmp_path / 'other'}: base_model differs; expected 'tiny', got 'llama'" in text
    code, text = faults("merge", sites[0], tmp_path / "absent", *words)
    assert code == 1
    assert str(tmp_path / "absent") in text
    assert not (tmp_path / "out").exists()


def test_nothing_but_an_adapter_is_ever_replaced(
    sites: list[Path], tmp_path: Path, faults: Callable[..., tuple[int, str]]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    code, text = faults("merge", *sites[:2], "--out", tmp_path / "mine", "--strategy", "uniform")
    assert (code, "holds other things than an adapter" in text) == (2, True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    before = load_adapter(sites[0])
    code, text = faults("merge", *sites[:2], "--out", sites[0], "--strategy", "uniform")
    assert (code, "is read from" in text) == (2, True)
    assert load_adapter(sites[0]) == before


def test_inspection_tells_spec_norms_ranks_and_bytes(sites: list[Path], run: Run) -> None:
    found = run("inspect", sites[2])
    adapter = load_adapter(sites[2])
    assert (found["rank"], found["alpha"], found["rslora"]) == (3, 7.0, True)
    assert found["scaling"] == pytest.approx(7 / math.sqrt(3))
    assert found["num_bytes"] == sum(t.nbytes for _, _, t in adapter.tensors())
    norms = [float(np.linalg.norm(dense(sites[2], module))) for module in MODULES]
    assert [row["norm"] for row in found["modules"]] == pytest.approx(norms)
    assert found["norm"] == pytest.approx(math.hypot(*norms))
    for row, module in zip(found["modules"], MODULES, strict=True):
        squares = np.linalg.svd(dense(sites[2], module), compute_uv=False)[:3] ** 2
        enough = np.cumsum(squares) / squares.sum() >= 0.9
        assert row["rank_for_90_percent"] == int(enough.argmax()) + 1
        assert row["rank_used"] == 3
        assert (row["d_out"], row["d_in"]) == dense(sites[2], module).shape


def test_inspection_compares_products_of_any_rank_and_scale(
    sites: list[Path], tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run("inspect", sites[0], "--against", sites[2])["against"]
    a, b = (np.concatenate([dense(f, m).ravel() for m in MODULES]) for f in (sites[0], sites[2]))
    assert found["distance"] == pytest.approx(float(np.linalg.norm(a - b)))
    assert found["cosine"] == pytest.approx(
        float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))
    )
    save_adapter(tmp_path / "wide", change_rank(load_adapter(sites[0]), 6, 1.0, True))
    found = run("inspect", sites[0], "--against", tmp_path / "wide")["against"]
    assert found["relative_distance"] < 1e-6
    assert found["cosine"] == pytest.approx(1)

    assert run_app(app, ["adapter", "inspect", str(sites[0]), "--against", str(sites[2])]) == 0
    text = capsys.readouterr().out
    assert "rank         2, alpha 4, scaling 2 (alpha / rank)" in text
    assert all(module in text for module in MODULES)


def test_inspection_of_a_broken_adapter_says_so(tmp_path: Path, run: Run) -> None:
    adapter = random_adapter(1)
    adapter.pairs[MODULES[1]].B[0, 0] = torch.inf
    save_adapter(tmp_path / "bad", adapter)
    found = run("inspect", tmp_path / "bad", "--against", tmp_path / "bad")
    assert (found["finite"], found["norm"]) == (False, None)
    assert [row["norm"] is None for row in found["modules"]] == [False, True, False]
    assert set(found["against"].values()) == {None}
    (tmp_path / "bad" / WEIGHTS_FILE).write_bytes(b"no")
    assert run_app(app, ["adapter", "inspect", str(tmp_path / "bad")]) == 1
    assert (tmp_path / "bad" / CONFIG_FILE).exists()
