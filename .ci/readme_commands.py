"""README's own commands, in its order, by the fedmedlora that this Python has installed.

python readme_commands.py README.md bare [RUN...]   what works without extras, and that the others
                                                    say what to install; RUN: runs to report on
python readme_commands.py README.md tiny            every command, with a tiny random base model
python readme_commands.py README.md real            fetch, train, extract with the embedded model

It works in the current folder, which should be empty. Only names that README leaves open are filled
in, and studies train on less than they would. Needs nothing but the standard library.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

INSTALL = "pip install 'fedmedlora[models]'"
TEXT_COMMANDS = {"corpus", "evaluate", "report"}
TEXT_PACKAGES = {"cli", "core", "corpora", "evaluation", "prompts", "report", "runs"}
LESS = {
    "training.max_tokens": "200",
    "training.max_validation_tokens": "100",
    "evaluation.max_characters": "200",
    "server_notes.max_tokens": "100",
    "federation.rounds": "1",
    "arms.zero_shot": "false",
    "arms.single_site": "false",
    "arms.centralized": "false",
}
NOTE = "Severe ankle pain since Monday, takes ibuprofen 400 mg daily. X-ray was normal."
# A progress bar or a warning that is not ours, or an error that nobody expected.
NOISE = re.compile(r"Traceback|unexpected \w+|it/s\]|\w+Warning:")


def main(readme: str, part: str, *runs: str) -> None:
    """Run the commands; the first thing that is wrong ends it."""
    page = Path(readme).read_text("utf-8")
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    commands = [shlex.split(x, comments=True) for x in lines if x.startswith("fedmedlora ")]
    check_imports(part)
    write_notes()
    if part == "bare":
        bare(commands, runs)
    elif part == "tiny":
        all_of_readme(commands)
    else:
        real(commands)


def check_imports(part: str) -> None:
    """What was installed can be imported, and it is the installed one."""
    import fedmedlora

    root = Path(fedmedlora.__file__)
    expect(root.is_relative_to(sys.prefix), f"{root} is not below {sys.prefix}")
    for module in pkgutil.walk_packages(fedmedlora.__path__, "fedmedlora."):
        package = module.name.split(".")[1]
        # `testing` has an extra of its own; importing `__main__` would run it.
        wanted = part != "bare" and package not in {"testing", "__main__"}
        if wanted or package in TEXT_PACKAGES:
            importlib.import_module(module.name)


def write_notes() -> None:
    """The notes that README speaks of: three hospitals, new notes, a table of notes."""
    done = run(["fedmedlora", "corpus", "synthesize", "--notes", "12", "--out", "made"])
    made = [Path(line) for line in done.stdout.splitlines() if Path(line).is_dir()]
    expect(len(made) > 2, f"three folders expected, got {done.stdout!r}")
    for folder, name in zip(made, ("north", "south", "east"), strict=False):
        shutil.copytree(folder, Path("notes", name))
    east = Path("notes/east/documents.jsonl")  # extracted from as a whole, so a few notes must do
    east.write_text("".join(east.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    Path("notes/new").mkdir()
    for path in ("note.txt", "notes/new/note.txt"):
        Path(path).write_text(NOTE, "utf-8")
    Path("export.csv").write_text(f'id,note\n1,"{NOTE}"\n', "utf-8")


def bare(commands: list[list[str]], runs: tuple[str, ...]) -> None:
    """Text commands do their work; each other command says what installs what it needs."""
    run(["fedmedlora", "--help"])
    convert = ["fedmedlora", "corpus", "convert"]
    run([*convert, "notes/north", "--from", "jsonl", "--to", "brat", "--out", "brat"])
    run([*convert, "brat", "--from", "brat", "--to", "jsonl", "--out", "brat-again"])
    shutil.copytree("notes/east", "scored")  # as if they had been predicted
    for words in commands:
        if words[1] in TEXT_COMMANDS - {"report"}:
            run(words)
    if runs:
        run(["fedmedlora", "report", *runs, "--out", "comparison"])
    Path("study.toml").write_text('name = "x"\n', "utf-8")
    for line in (
        "model fetch",
        "extract note.txt --adapter x --out y",
        "study run study.toml --out x",
    ):
        done = run(["fedmedlora", *line.split()], code=1)
        expect(INSTALL in done.stderr, f"{INSTALL!r} expected, got {done.stderr!r}")


def all_of_readme(commands: list[list[str]]) -> None:
    """Every command, with what README leaves open filled in."""
    from fedmedlora.testing.tiny import write_tiny_model

    write_tiny_model(Path("tiny"))
    for words in commands:
        if words[1:3] in (["study", "check"], ["study", "run"]):
            words += settings({"model.base": "tiny", **LESS})
        done = run(words)
        if words[1:3] == ["study", "run"]:
            name_what_readme_leaves_open(Path(done.stdout.splitlines()[-1]))


def real(commands: list[list[str]]) -> None:
    """The embedded model, fetched, used as it comes, trained for a few steps, used."""
    run(["fedmedlora", "model", "fetch"])
    run(["fedmedlora", "extract", "note.txt", "--out", "by-the-starter"])
    for words in commands:
        if words[1:3] == ["study", "new"]:
            run(words)
    done = run(["fedmedlora", "study", "run", "study.toml", "--out", "runs", *settings(LESS)])
    made = done.stdout.splitlines()[-1]
    run(["fedmedlora", "extract", "--adapter", made, "note.txt", "--out", "predicted"])


def settings(values: dict[str, str]) -> list[str]:
    """As options of `study`."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def name_what_readme_leaves_open(made: Path) -> None:
    """The run as `runs/RUN` and `runs/OTHER-RUN`, and two adapters of it."""
    expect((made / "report.html").is_file(), f"{made} has no report.html")
    for name in ("RUN", "OTHER-RUN"):
        shutil.copytree(made, Path("runs", name))
    found = sorted(path.parent for path in made.glob("adapters/**/adapter_config.json"))
    expect(len(found) > 1, f"two adapters expected below {made}/adapters, got {found}")
    shutil.copytree(found[0], "site-a")
    shutil.copytree(found[-1], "site-b")


def run(words: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command that ends with this code, writes what it was told to, and shows no noise."""
    sys.stdout.write(f"$ {shlex.join(words)}\n")
    sys.stdout.flush()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    shown = f"{done.stdout}\n{done.stderr}"
    expect(done.returncode == code, f"exit code {code} expected, got {done.returncode}:\n{shown}")
    expect(NOISE.search(shown) is None, f"noise:\n{shown}")
    for option, value in itertools.pairwise(words):
        if option in {"--out", "--html"} and code == 0:
            expect(Path(value).exists(), f"{value} was not written:\n{shown}")
    return done


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def expect(true: bool, otherwise: str) -> None:
    """End with the reason unless it is true."""
    if not true:
        sys.exit(f"readme_commands: {otherwise}")


if __name__ == "__main__":
    main(*sys.argv[1:])
