"""A finished run as a study leaves it, with made-up scores."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.records import RoundRecord
from fedmedlora.runs.store import RunStore

SITES = ("clinic", "icu", "ward")
COHORTS = (("clinic", 10), ("icu", 12), ("ward", 9), ("eye", 14), ("triage", 13))
LABELS = ("problem", "treatment", "test", "drug")
LEVELS = {
    "zero-shot": 0.06,
    "single-site/clinic": 0.40,
    "single-site/icu": 0.38,
    "single-site/ward": 0.34,
    "centralized": 0.62,
    "uniform": 0.575,
    "fedavg": 0.57,
    "fedmedlora-plus-reference": 0.585,
}
FULL_MODEL_BYTES = 538_060_800

Scores = dict[str, Any]
MakeRun = Callable[..., Path]


def counts(tp: int, fp: int, fn: int) -> dict[str, Any]:
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
    }


def demo_arms() -> list[dict[str, Any]]:
    arms = []
    for name in LEVELS:
        condition, _, site = name.partition("/")
        if condition not in ("zero-shot", "single-site", "centralized"):
            condition = "federated"
        strategy = None
        if condition == "federated":
            strategy = {"name": name.removesuffix("-reference"), "size": "tokens"}
        arms.append(
            {"name": name, "condition": condition, "site": site or None, "strategy": strategy}
        )
    return arms


def demo_scores() -> Scores:
    rng = random.Random(7)
    results: list[dict[str, Any]] = []
    for arm, level in LEVELS.items():
        for cohort, documents in COHORTS:
            own = arm == f"single-site/{cohort}"
            for preset, bonus in (("strict", 0.0), ("lenient", 0.11)):
                labels = {}
                for label in LABELS:
                    gold = documents * rng.randint(2, 6)
                    share = min(0.95, level + bonus + 0.16 * own + rng.uniform(-0.06, 0.06))
                    tp = max(0, round(share * gold))
                    labels[label] = counts(tp, rng.randint(3, 14), gold - tp)
                total = [sum(c[k] for c in labels.values()) for k in ("tp", "fp", "fn")]
                micro = counts(*total)
                micro["f1_ci95"] = [max(0.0, micro["f1"] - 0.052), micro["f1"] + 0.047]
                macro = sum(c["f1"] for c in labels.values()) / len(labels)
                results.append(
                    {
                        "arm": arm,
                        "cohort": cohort,
                        "preset": preset,
                        "extraction_seconds": 2.5 + documents / 10,
                        "scores": {"micro": micro, "macro_f1": macro, "labels": labels},
                    }
                )
    cohorts = [
        {
            "name": name,
            "setting": "in-domain" if name in SITES else "external",
            "documents": documents,
            "labels": list(LABELS),
        }
        for name, documents in COHORTS
    ]
    summary, comparisons = summarised(results, cohorts)
    return {
        "version": "0.1.0",
        "study": "demo",
        "seed": 0,
        "base_model": "smollm2-135m",
        "schema": "clinical-ie-v1",
        "prompt_format": "compact-v1",
        "arms": demo_arms(),
        "cohorts": cohorts,
        "results": results,
        "summary": summary,
        "comparisons": comparisons,
    }


def summarised(
    results: list[dict[str, Any]], cohorts: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    summary, comparisons = [], []
    for setting in ("in-domain", "external"):
        names = [c["name"] for c in cohorts if c["setting"] == setting]
        for preset in ("strict", "lenient"):
            means = {}
            for arm in LEVELS:
                f1s = [
                    r["scores"]["micro"]["f1"]
                    for r in results
                    if (r["arm"], r["preset"]) == (arm, preset) and r["cohort"] in names
                ]
                means[arm] = sum(f1s) / len(f1s)
            single = [m for arm, m in means.items() if arm.startswith("single-site")]
            means["single-site (mean)"] = sum(single) / len(single)
            for arm, mean in means.items():
                ci95 = [max(0.0, mean - 0.037), mean + 0.034]
                summary.append(
                    {
                        "arm": arm,
                        "setting": setting,
                        "preset": preset,
                        "macro_f1": mean,
                        "ci95": ci95,
                        "cohorts": names,
                    }
                )
            for arm in ("uniform", "fedavg", "fedmedlora-plus-reference"):
                for against in ("zero-shot", "single-site (mean)", "centralized", "uniform"):
                    if arm != against:
                        difference = means[arm] - means[against]
                        comparisons.append(
                            {
                                "setting": setting,
                                "preset": preset,
                                "arm": arm,
                                "against": against,
                                "difference": difference,
                                "ci95": [difference - 0.031, difference + 0.029],
                            }
                        )
    return summary, comparisons


def demo_rounds(num_rounds: int = 3) -> list[RoundRecord]:
    records = []
    tokens = {"clinic": 4100, "icu": 9300, "ward": 6200}
    for arm in LEVELS:
        if arm == "zero-shot":
            continue
        federated = arm in ("uniform", "fedavg", "fedmedlora-plus-reference")
        sites = SITES if federated else (arm.partition("/")[2] or "all",)
        weights = {site: tokens.get(site, 1) / sum(tokens.values()) for site in sites}
        if arm != "fedavg":
            weights = {site: 1 / len(sites) for site in sites}
        for r in range(1, num_rounds + 1):
            failed = {"ward": "timeout"} if arm == "uniform" and r == 2 else {}
            merged = tuple(site for site in sites if site not in failed)
            gain = 0.25 if federated else 0.0
            records.append(
                RoundRecord(
                    arm=arm,
                    round_index=r,
                    sites=merged,
                    failed=failed,
                    weights={s: weights[s] / sum(weights[m] for m in merged) for s in merged},
                    train_loss={s: 0.2 + 0.9 / r + len(s) / 50 for s in merged},
                    validation_loss={s: 0.4 + (2.2 - gain) / r**1.4 + len(s) / 40 for s in merged},
                    num_examples=dict.fromkeys(merged, 120),
                    num_completion_tokens={s: tokens.get(s, 19_600) for s in merged},
                    bytes_up=dict.fromkeys(merged, 9_771_000) if federated else {},
                    bytes_down=dict.fromkeys(sites, 9_770_400) if federated else {},
                    site_seconds=dict.fromkeys(merged, 18.0 + r),
                    elapsed_seconds=19.5 * len(sites) + r,
                    notes={"full_model_bytes": FULL_MODEL_BYTES} if federated else {},
                )
            )
    return records


def demo_config() -> dict[str, Any]:
    return {
        "name": "demo",
        "seed": 0,
        "artificial": True,
        "model": {"base": "smollm2-135m"},
        "lora": {"rank": 16, "alpha": 32},
        "prompt": {"format": "compact", "window_tokens": 160},
        "training": {"learning_rate": 0.001, "epochs": 1, "batch_size": 8},
        "federation": {"rounds": 3, "codec": "fp32"},
        "sites": [{"name": name, "path": f"demo/{name}"} for name in SITES],
        "strategies": [{"name": "fedavg", "size": "tokens"}, {"name": "uniform"}],
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes run directories; scores `None` leaves the run unfinished."""

    def make(
        scores: Scores | None = None,
        *,
        finished: bool = True,
        rounds: list[RoundRecord] | None = None,
        config: dict[str, Any] | None = None,
    ) -> Path:
        store = RunStore.create(tmp_path / "runs", config or demo_config(), "demo")
        records = demo_rounds() if rounds is None else rounds
        if records:
            store.write_json_lines("rounds.jsonl", [r.to_json() for r in records])
        if finished:
            written = demo_scores() if scores is None else scores
            store.write_json("scores.json", {"config_sha256": store.config_sha256, **written})
        return store.path

    return make


@pytest.fixture
def scores() -> Scores:
    """Fresh made-up scores, to be changed at will."""
    return demo_scores()


@pytest.fixture
def rounds() -> list[RoundRecord]:
    """Three rounds of every trained arm; site `ward` is lost once."""
    return demo_rounds()
