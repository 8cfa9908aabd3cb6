"""What a study works with: notes, base model, adapter and examples, loaded and checked once."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.errors import ConfigError
from fedmedlora.models.attention_choice import AttentionChoice, choose_attention
from fedmedlora.models.catalog import ALL_LINEAR, PRESETS
from fedmedlora.models.dtype import choose_dtype
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.prompts.registry import get_format
from fedmedlora.prompts.relation_formats import get_relation_format
from fedmedlora.study.conditions import POOL, SERVER, client_name
from fedmedlora.study.data import StudyNotes, load_notes, pooled, site_examples
from fedmedlora.study.number_type import RoundingError, rounding_error
from fedmedlora.study.server_notes import ServerNotes
from fedmedlora.study.start import started_from, with_start
from fedmedlora.training.local import LocalSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.prompts.relation_format import RelationFormat
    from fedmedlora.study.conditions import Arm
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import SiteNotes
    from fedmedlora.training.site import TaskData


@dataclass(frozen=True)
class Prepared:
    """A study ready to run.

    `data` holds the examples by client and task, and those of all sites under `POOL`. A client is a
    site, or a site's part with one of its tasks. `relations` is the format of the relation task;
    None where the study has no such task. `config` holds the choice of `attention`, too.
    """

    config: StudyConfig
    notes: StudyNotes
    base: BaseModel
    attention: AttentionChoice
    model: LoRAModel
    initial: AdapterState
    tags: TagFormat
    relations: RelationFormat | None
    data: Mapping[str, Mapping[Task, TaskData]]
    settings: LocalSettings
    server_notes: ServerNotes | None

    def round_tokens(self, client: str, tasks: Iterable[Task]) -> float:
        """Tokens that a client trains on in one round of these tasks."""
        epochs = self.config.training.epochs
        return sum(self.data[client][task].num_tokens for task in tasks) * epochs

    def relating(self, arm: Arm) -> list[SiteNotes]:
        """The sites that teach an arm modifiers; of the arm without training, all that could.

        Only if some of them are `linked` has the arm's model learned to say what modifiers belong
        to, and can be asked.
        """
        if "relations" not in arm.tasks:
            return []
        alone = arm.condition == "single-site"
        sites = [s for s in self.notes.sites if s.name in arm.sites or not alone]
        return [site for site in sites if "relations" in site.tasks]


def resolve(config: StudyConfig, observer: Observer) -> StudyConfig:
    """The configuration with everything that depends on this machine filled in.

    Number type, kernel, device and threads decide the last bits of a result; a resumed run must
    keep them.

    Raises:
        ConfigError: The machine has no GPU, but the study asks for one.
    """
    return resolve_here(config, observer)[0]


def resolve_here(config: StudyConfig, observer: Observer) -> tuple[StudyConfig, dict[str, Any]]:
    """As `resolve`, and what was measured for it: plain values for `environment.json`.

    Raises:
        ConfigError: The machine has no GPU, but the study asks for one.
    """
    config = with_start(config)
    filled: dict[str, Any] = {}
    model = config.model
    if Path(model.base).expanduser().exists() and model.base not in PRESETS:
        # As the corpora: a run can be resumed from any working directory.
        filled["base"] = str(Path(model.base).expanduser().resolve())
    threads = filled["threads"] = model.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    device = filled["device"] = _device(model.device)
    lora = config.lora
    if lora.target_modules is None:
        known = PRESETS.get(model.base)
        targets = known.target_modules if known else ALL_LINEAR
        lora = lora.model_copy(update={"target_modules": targets})
    processes = _processes(config.federation.processes, device)
    federation = config.federation.model_copy(update={"processes": processes})
    changed = {"model": model.model_copy(update=filled), "lora": lora, "federation": federation}
    config = config.model_copy(update=changed)
    measured: dict[str, Any] = {"worker_threads": worker_threads(config)} if processes else {}
    if model.dtype == "auto" or model.kernel == "auto":
        choice = choose_dtype(device)
        measured["number_type"] = choice.to_json()
        if model.kernel == "auto":
            filled["kernel"] = choice.kernel
        if model.dtype == "auto":
            observer.message(f"number type {choice.reason}")
            filled["dtype"] = choice.name
            if choice.name != "float32":
                error = _rounding_error(config, device, observer)
                observer.message(f"number type {error.name}: {error.reason}")
                measured["rounding"] = asdict(error) | {"reason": error.reason}
                filled["dtype"] = error.name
        config = config.model_copy(update={"model": config.model.model_copy(update=filled)})
    return config, measured


def _device(wanted: str) -> str:
    """`cpu` or `cuda`."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "model.device: this machine has no GPU that torch can use; expected one for "
            'device = "cuda". Set model.device = "cpu" or "auto".'
        )
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _processes(wanted: int | str, device: str) -> int:
    """How many workers there are."""
    if wanted != "gpus":
        return int(wanted)
    if device != "cuda":
        raise ConfigError(
            'federation.processes: "gpus" is one worker a GPU, but the model runs on the CPU. '
            "Give a number, or set model.device to a GPU that is there."
        )
    return len(visible_gpus())


def visible_gpus() -> list[str]:
    """The GPUs that torch sees here, by the names that `CUDA_VISIBLE_DEVICES` knows them by."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    return [name for name in named if name][: len(numbers)] or numbers


def worker_threads(config: StudyConfig) -> int:
    """Threads of each worker process of a resolved study: its share of all."""
    threads = config.model.threads or torch.get_num_threads()
    return max(1, threads // max(1, int(config.federation.processes)))


def _rounding_error(config: StudyConfig, device: str, observer: Observer) -> RoundingError:
    return rounding_error(
        lambda dtype: load_base(
            config.model.base,
            revision=config.model.revision,
            dtype=dtype,
            device=device,
            quantisation=config.model.quantisation,
            say=observer.message,
        ),
        get_format(config.prompt.format),
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        target_modules=config.lora.target_modules or ALL_LINEAR,
    )


def prepare(config: StudyConfig, observer: Observer) -> Prepared:
    """Everything that a resolved study works with.

    Raises:
        ConfigError: The notes or the settings have faults; carries all.
        ModelError: The base model cannot be loaded, or not with the attention that is set.
        AdapterMismatchError: The base model has none of the target modules, or is not the one that
            the start was trained on.
    """
    torch.set_num_threads(config.model.threads or torch.get_num_threads())
    notes = load_notes(config)
    observer.message(f"loading the base model {config.model.base}")
    base = load_base(
        config.model.base,
        revision=config.model.revision,
        dtype=torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32,
        device=_device(config.model.device),
        kernel="onednn" if config.model.kernel == "onednn" else "torch",
        quantisation=config.model.quantisation,
        say=observer.message,
    )
    attention = choose_attention(base.backbone, config.model.attention)
    if base.device.type == "cuda":
        observer.message(f"attention {attention.name}: {attention.reason}")
    chosen = config.model.model_copy(update={"attention": attention.name})
    config = config.model_copy(update={"model": chosen})
    tags = get_format(config.prompt.format)
    if config.start is None:
        initial = initial_adapter(
            base,
            rank=config.lora.rank,
            alpha=config.lora.alpha,
            target_modules=config.lora.target_modules or ALL_LINEAR,
            seed=config.seed,
        )
    else:
        initial = started_from(config.start, base)
    model = LoRAModel(base, initial.spec)
    model.load(initial)  # a start that does not fit is told of before anything is written
    data = {s.name: site_examples(config, s, tags, base.tokenizer) for s in notes.sites}
    if idle := [n for n, tasks in data.items() if not all(d.train for d in tasks.values())]:
        raise ConfigError(
            f"sites {', '.join(idle)}: no training example is left; expected at least one. "
            "Raise training.negatives, or check the annotations."
        )
    for site in notes.sites:
        parts = {client_name(site.name, task): {task: d} for task, d in data[site.name].items()}
        data |= parts
    training = config.training
    server_notes = (
        ServerNotes(config, config.server_notes, notes.sites, model, tags, notes.server)
        if config.server_notes
        else None
    )
    if server_notes is not None and config.arms.fedavg_val:
        data[SERVER] = server_notes.as_site(training.negatives, config.seed)
    return Prepared(
        config=config,
        notes=notes,
        base=base,
        attention=attention,
        model=model,
        initial=initial,
        tags=tags,
        relations=(
            get_relation_format(config.prompt.format) if "relations" in config.tasks else None
        ),
        data={**data, POOL: _pool(config, [data[site.name] for site in notes.sites])},
        settings=LocalSettings(
            learning_rate=training.learning_rate,
            epochs=training.epochs,
            batch_tokens=training.batch_tokens,
            warmup_fraction=training.warmup_fraction,
            micro_batch_tokens=training.micro_batch_tokens,
            recompute_layers=training.recompute_layers,
            relation_share=(
                None if training.relation_share == "tokens" else training.relation_share
            ),
        ),
        server_notes=server_notes,
    )


def _pool(config: StudyConfig, sites: Sequence[Mapping[Task, TaskData]]) -> dict[Task, TaskData]:
    """The examples of all sites together, by task."""
    found: dict[Task, TaskData] = {}
    for task in config.tasks:
        if own := [data[task] for data in sites if task in data]:
            found[task] = _bounded(pooled(own), config.training.max_validation_tokens)
    return found


def _bounded(data: TaskData, max_tokens: int | None) -> TaskData:
    """The pooled data, whose validation examples keep to one site's budget, evenly drawn."""
    total = sum(len(example.token_ids) for example in data.validation)
    if max_tokens is None or total <= max_tokens:
        return data
    step = -(-total // max_tokens)
    return replace(data, validation=data.validation[::step])
