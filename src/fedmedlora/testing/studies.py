"""A whole study in seconds: artificial hospitals, a tiny random model and a study file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.corpora.jsonl import read_jsonl, write_jsonl
from fedmedlora.corpora.synthetic import FIVE, synthesize
from fedmedlora.testing.tiny import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from fedmedlora.core.document import Document

_STUDY = """\
name = "tiny"
seed = 3

[data]
root = "hospitals"
artificial = true

[model]
base = "{model}"
dtype = "float32"
kernel = "torch"
device = "cpu"
threads = 1

[lora]
rank = 2
alpha = 4

[prompt]
window_tokens = 32

[training]
learning_rate = 1e-2
max_tokens = 1200
max_validation_tokens = 400
batch_tokens = 800

[federation]
rounds = 2
codec = "fp32"

[evaluation]
max_characters = 400
draws = 200
single_site_in_domain = "own"

[server_notes]
notes_per_site = 1
max_tokens = 900
"""


def write_tiny_study(folder: Path, *, num_notes: int = 10, note_characters: int = 160) -> Path:
    """The path of a study file; hospitals and base model lie beside it.

    Of five hospitals, three train and two are held out; `fedmedlora-plus` and `fedavg` are
    compared. Notes are cut off after so many characters. Results are noise: the model is random.
    """
    for corpus in synthesize(folder / "hospitals", num_notes=num_notes):
        notes = read_jsonl(corpus / "documents.jsonl")
        write_jsonl(corpus / "documents.jsonl", [_beginning(n, note_characters) for n in notes])
    model = write_tiny_model(folder / "model")
    text = _STUDY.format(model=model.as_posix())
    for hospital in FIVE:
        kind = "sites" if hospital.role == "train" else "cohorts"
        text += f'\n[[{kind}]]\nname = "{hospital.name}"\ncorpus = "{hospital.name}"\n'
    text += '\n[[strategies]]\nname = "fedmedlora-plus"\nmode = "reference"\n'
    text += '\n[[strategies]]\nname = "fedavg"\n'
    study = folder / "study.toml"
    study.write_text(text, "utf-8")
    return study


def _beginning(note: Document, num_characters: int) -> Document:
    kept = [entity for entity in note.entities if entity.end <= num_characters]
    ids = {entity.id for entity in kept}
    links = [link for link in note.relations if link.head in ids and link.tail in ids]
    return replace(note.with_entities(kept, links), text=note.text[:num_characters])
