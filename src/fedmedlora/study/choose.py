"""Which of several studies ends within a given time: their work, at this machine's speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import ConfigError
from fedmedlora.models.device import device_of
from fedmedlora.models.miniature import load_tokenizer
from fedmedlora.prompts.registry import get_format
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.data import load_notes
from fedmedlora.study.machine_speed import MachineSpeed
from fedmedlora.study.plan import planned_work
from fedmedlora.study.prepare import client_data, resolve_here
from fedmedlora.study.start import with_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import StudyNotes
    from fedmedlora.study.plan import Work
    from fedmedlora.training.site import TaskData

# Loading libraries, notes and model and measuring, in tokens whose loss is taken.
_START_TOKENS = 3000.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The study that was chosen, and why.

    Attributes:
        path: Of the chosen one's file.
        seconds: That each would take, by file, in the order given.
        limit_seconds: That it may take.
        speed: Of this machine's processor.
        on_gpu: The study runs on a GPU, which is not tried.
    """

    path: Path
    seconds: Mapping[Path, float]
    limit_seconds: float
    speed: MachineSpeed
    on_gpu: bool = False

    def lines(self) -> list[str]:
        """For people."""
        rate = self.speed.tokens_per_second
        told = [f"this machine trains on about {rate:,.0f} tokens a second"]
        if self.on_gpu:
            told = [
                f"this machine's processor trains on about {rate:,.0f} tokens a second; the study "
                "runs on its GPU, which was not tried: these times are the most it can take"
            ]
        for path, seconds in self.seconds.items():
            chosen = " <- chosen" if path == self.path else ""
            told.append(f"  {path}: about {minutes(seconds)}{chosen}")
        if self.seconds[self.path] > self.limit_seconds:
            told.append(f"None ends within {minutes(self.limit_seconds)}: taking the shortest.")
        return told

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chosen": str(self.path),
            "limit_seconds": self.limit_seconds,
            "seconds": {str(path): round(seconds) for path, seconds in self.seconds.items()},
            "tokens_per_second": round(self.speed.tokens_per_second, 2),
        }


@dataclass(frozen=True)
class _Outline:
    """What a study's work can be told from: no base model."""

    config: StudyConfig
    notes: StudyNotes
    data: Mapping[str, Mapping[Task, TaskData]]

    def round_tokens(self, client: str, tasks: Iterable[Task]) -> float:
        found = self.data.get(client, {})
        return self.config.training.epochs * sum(
            found[task].num_tokens for task in tasks if task in found
        )

    def held_out_tokens(self, client: str, tasks: Iterable[Task]) -> float:
        found = self.data.get(client, {})
        return sum(
            len(example.token_ids)
            for task in tasks
            if task in found
            for example in found[task].validation
        )


def choose_study(
    studies: Mapping[Path, StudyConfig], limit_seconds: float, observer: Observer
) -> Choice:
    """The longest of the studies that ends in time; the shortest if none does.

    This machine's speed is measured for the first study, which the others are taken to share their
    base model with.

    Raises:
        ConfigError: The studies have faults, or the speed cannot be measured.
        ModelError: The base model cannot be fetched.
    """
    first = next(iter(studies.values()))
    config, measured = resolve_here(_measurable(first), observer)
    if "speed" not in measured:
        raise ConfigError(
            f"model.base: {first.model.base} is too large, or of a kind that cannot be tried in "
            "small; its speed is measured by fedmedlora study check."
        )
    speed = MachineSpeed.from_json(measured["speed"])
    tokenizer = load_tokenizer(config.model.base, revision=config.model.revision)
    seconds = {path: seconds_of(_work(study, tokenizer), speed) for path, study in studies.items()}
    on_gpu = first.model.device != "cpu" and device_of("auto", asked_by="model.device") == "cuda"
    return Choice(chosen(seconds, limit_seconds), seconds, limit_seconds, speed, on_gpu)


def chosen(seconds: Mapping[Path, float], limit: float) -> Path:
    """The longest that ends in time; the shortest if none does."""
    in_time = {path: taken for path, taken in seconds.items() if taken <= limit}
    if in_time:
        return max(in_time, key=lambda path: in_time[path])
    return min(seconds, key=lambda path: seconds[path])


def seconds_of(work: Work, speed: MachineSpeed) -> float:
    """How long a study takes from its command on."""
    start = _START_TOKENS * work.seconds_a_unit(speed)["between"]
    return start + sum(work.seconds(speed).values())


def minutes(seconds: float) -> str:
    """For people."""
    return f"{max(1, round(seconds / 60))} min"


def _measurable(config: StudyConfig) -> StudyConfig:
    """Without a number of threads, which would leave nothing to measure."""
    model = config.model.model_copy(update={"threads": None, "device": "cpu"})
    federation = config.federation.model_copy(update={"processes": 0})
    return config.model_copy(update={"model": model, "federation": federation})


def _work(config: StudyConfig, tokenizer: PieceTokenizer) -> Work:
    config = with_start(config)
    notes = load_notes(config)
    data = client_data(config, notes, get_format(config.prompt.format), tokenizer)
    return planned_work(_Outline(config, notes, data), arms_of(config))
