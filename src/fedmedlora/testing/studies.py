"""A whole study in seconds: artificial hospitals, a tiny random model and a study file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.corpora.synthetic import FIVE, synthesize
from fedmedlora.testing.tiny import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

_STUDY = """\
name = "tiny"
seed = 3

[data]
root = "hospitals"
artificial = true

[model]
base = "{model}"
dtype = "float32"
threads = 1

[lora]
rank = 2
alpha = 4

[prompt]
window_tokens = 128

[training]
learning_rate = 1e-2
max_tokens = 1200
max_validation_tokens = 400
batch_tokens = 800

[federation]
rounds = 2
codec = "fp32"

[evaluation]
max_characters = 300
draws = 200
single_site_in_domain = "own"

[server_notes]
notes_per_site = 1
max_tokens = 900
"""


def write_tiny_study(folder: Path, *, num_notes: int = 10) -> Path:
    """The path of a study file; hospitals and base model lie beside it.

    Three hospitals train, two are held out; `fedmedlora-plus` and `fedavg` are compared. The file
    ends with its lists, so that tables can be appended. Results are noise: the model is random.
    """
    synthesize(folder / "hospitals", num_notes=num_notes)
    model = write_tiny_model(folder / "model")
    text = _STUDY.format(model=model.as_posix())
    for hospital in FIVE:
        kind = "sites" if hospital.role == "train" else "cohorts"
        text += f'\n[[{kind}]]\nname = "{hospital.name}"\ncorpus = "{hospital.name}"\n'
    text += '\n[[strategies]]\nname = "fedmedlora-plus"\n\n[[strategies]]\nname = "fedavg"\n'
    study = folder / "study.toml"
    study.write_text(text, "utf-8")
    return study
