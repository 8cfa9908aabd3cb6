"""Makes the starter that comes with the package from a run of starter.toml, with its model card.

    fedmedlora study run examples/starter.toml --set data.root=CORPORA
    python examples/pack_starter.py RUN
    fedmedlora study run examples/starter.toml --set data.root=CORPORA --set start=starter --set strategies=[]
    python examples/pack_starter.py RUN --packed-run PACKED_RUN

The third command tests what was packed on the same notes; the fourth adds its scores to the card.
"""  # noqa: E501

import argparse
import json
import sys
from pathlib import Path
from string import Template

from fedmedlora.models.starter import STARTER_FOLDER
from fedmedlora.report.wording import interval, points
from fedmedlora.study.packing import pack_adapter

HERE = Path(__file__).parent
TASKS = {
    ("modifiers", "predicted", None): "modifiers",
    ("relations", "predicted", "model"): "relations",
}


def main() -> None:
    """Pack the run that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run of starter.toml")
    parser.add_argument("--packed-run", type=Path, help="a run that tested the packed starter")
    parser.add_argument("--out", type=Path, default=STARTER_FOLDER)
    chosen = parser.parse_args()
    done = pack_adapter(chosen.run, chosen.out, card(chosen.run, chosen.packed_run))
    sys.stdout.write(json.dumps(done, indent=2) + "\n")


def card(run: Path, packed_run: Path | None) -> str:
    """The model card with the figures of the run."""
    config = json.loads((run / "config.json").read_text("utf-8"))["config"]
    scores = read_scores(run)
    tables = [("As trained", scores_table(scores))]
    if packed_run is not None:
        tables.append(("As it is shipped, in 8 bits", scores_table(read_scores(packed_run))))
    training, lora = config["training"], config["lora"]
    return Template((HERE / "starter-card.md").read_text("utf-8")).substitute(
        base=scores["base_model"],
        modules=len(lora["target_modules"]),
        rank=lora["rank"],
        alpha=f"{lora['alpha']:g}",
        format=config["prompt"]["format"],
        window_tokens=config["prompt"]["window_tokens"],
        rounds=rounds_done(run),
        strategy=scores["arms"][-1]["name"] if scores["arms"] else config["strategies"][0]["name"],
        round_tokens=f"{training['max_tokens'] * training['epochs']:,.0f}",
        round_relation_tokens=f"{training['max_relation_tokens'] * training['epochs']:,.0f}",
        tokens=tokens_table(run, training["epochs"]),
        scores="\n\n".join(f"**{title}**\n\n{table}" for title, table in tables),
        seed=config["seed"],
    )


def read_scores(run: Path) -> dict:
    """What a run found; nothing, where it is not finished."""
    path = run / "scores.json"
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    base = json.loads((run / "config.json").read_text("utf-8"))["config"]["model"]["base"]
    return {"base_model": base, "arms": [], "cohorts": [], "results": []}


def rounds_done(run: Path) -> int:
    """Rounds whose adapter is there."""
    return len(list((run / "adapters").glob("round-*")))


def tokens_table(run: Path, epochs: float) -> str:
    """By site, on how many examples and answer tokens the adapter was trained."""
    lines = (run / "rounds.jsonl").read_text("utf-8").splitlines()
    rounds = [json.loads(line) for line in lines]
    rows = ["| site | examples read | answer tokens learned from |", "|---|---|---|"]
    for site in sorted(rounds[0]["sites"]):
        examples = sum(record["num_examples"][site] for record in rounds) * epochs
        tokens = sum(record["num_completion_tokens"][site] for record in rounds) * epochs
        rows.append(f"| {site} | {examples:,.0f} | {tokens:,.0f} |")
    return "\n".join(rows)


def scores_table(scores: dict) -> str:
    """F1 by cohort and task, strict and lenient, with intervals."""
    if not scores["results"]:
        return "The run is not finished: not tested yet."
    found = {("entities", r["cohort"], r["preset"]): r["scores"] for r in scores["results"]}
    for row in scores.get("task_results", ()):
        task = TASKS.get((row["task"], row["given"], row["linker"]))
        if task and row["arm"] is not None:
            found[task, row["cohort"], row["preset"]] = row["scores"]
    rows = [
        "| notes | | task | strict F1 | 95 % interval | precision | recall | lenient F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cohort in scores["cohorts"]:
        for task in ("entities", "modifiers", "relations"):
            strict = found.get((task, cohort["name"], "strict"))
            lenient = found.get((task, cohort["name"], "lenient"))
            if strict is None or lenient is None:
                continue
            micro = strict["micro"]
            kind = "test split" if cohort["setting"] == "in-domain" else "held out"
            rows.append(
                f"| {cohort['name']} ({cohort['documents']}) | {kind} | {task} "
                f"| {points(micro['f1'])} | {interval(micro['f1_ci95'])} "
                f"| {points(micro['precision'])} | {points(micro['recall'])} "
                f"| {points(lenient['micro']['f1'])} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
