"""What a study works with: notes, base model, adapter and examples, loaded and checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.core.errors import ConfigError
from fedmedlora.core.words import counted
from fedmedlora.models.attention_choice import AttentionChoice, choose_attention
from fedmedlora.models.catalog import ALL_LINEAR, PRESETS
from fedmedlora.models.device import device_of
from fedmedlora.models.dtype import choose_dtype
from fedmedlora.models.load import BaseModel, load_base
from fedmedlora.models.lora import LoRAModel, initial_adapter
from fedmedlora.prompts.registry import get_format
from fedmedlora.prompts.relation_formats import get_relation_format
from fedmedlora.runs.machine_cores import usable_cores
from fedmedlora.study.conditions import POOL, SERVER, client_name
from fedmedlora.study.data import StudyNotes, load_notes, pooled, site_examples
from fedmedlora.study.devices import how_computed, measured_speed, num_processes
from fedmedlora.study.number_type import RoundingError, rounding_error
from fedmedlora.study.server_notes import ServerNotes
from fedmedlora.study.start import started_from, with_start
from fedmedlora.training.local import LocalSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fedmedlora.adapters.state import AdapterState
    from fedmedlora.core.example import Task
    from fedmedlora.core.records import Observer
    from fedmedlora.models.tokens import PieceTokenizer
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

    def held_out_tokens(self, client: str, tasks: Iterable[Task]) -> float:
        """Tokens of a client's validation examples of these tasks."""
        return sum(
            len(example.token_ids)
            for task in tasks
            for example in self.data[client][task].validation
        )

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
    config = with_start(config, observer.message)
    filled: dict[str, Any] = {}
    model = config.model
    if Path(model.base).expanduser().exists() and model.base not in PRESETS:
        # As the corpora: a run can be resumed from any working directory.
        filled["base"] = str(Path(model.base).expanduser().resolve())
    device = filled["device"] = device_of(model.device, asked_by="model.device")
    lora = config.lora
    if lora.target_modules is None:
        known = PRESETS.get(model.base)
        targets = known.target_modules if known else ALL_LINEAR
        lora = lora.model_copy(update={"target_modules": targets})
    changed = {"model": model.model_copy(update=filled), "lora": lora}
    config = config.model_copy(update=changed)
    if "auto" in (model.dtype, model.kernel) or model.threads is None:
        observer.message("trying what is fastest on this machine")
    config, measured, remark = _with_number_type(config, observer)
    speed = None
    if device == "cpu" and (model.threads is None or config.federation.processes == "auto"):
        speed = measured_speed(config, observer)
    threads = model.threads or (speed.threads if speed else usable_cores())
    torch.set_num_threads(threads)
    processes = num_processes(config.federation.processes, device, speed)
    federation = config.federation.model_copy(update={"processes": processes})
    chosen = config.model.model_copy(update={"threads": threads})
    config = config.model_copy(update={"model": chosen, "federation": federation})
    if speed is not None:
        measured["speed"] = speed.to_json()
    typed = model.dtype == "auto"
    if typed or (speed is not None and model.threads is None):
        with_threads = counted(threads, "thread") if speed is not None else ""
        how = how_computed(chosen.dtype, with_threads, typed=typed, by_speed=model.threads is None)
        observer.message(f"computing in {how}{remark}")
    return config, measured


def _with_number_type(
    config: StudyConfig, observer: Observer
) -> tuple[StudyConfig, dict[str, Any], str]:
    """Number type and kernel filled in, what was measured for them, and a remark for people."""
    model = config.model
    if "auto" not in (model.dtype, model.kernel):
        return config, {}, ""
    # One thread tells which type is faster; more wait for each other where others use the machine.
    torch.set_num_threads(model.threads or 1)
    choice = choose_dtype(model.device)
    torch.set_num_threads(model.threads or usable_cores())  # torch's own number passes over quotas
    filled: dict[str, Any] = {}
    measured: dict[str, Any] = {"number_type": choice.to_json()}
    remark = ""
    if model.kernel == "auto":
        filled["kernel"] = choice.kernel
    if model.dtype == "auto":
        filled["dtype"] = choice.name
        if choice.name != "float32":
            error = _rounding_error(config, model.device, observer)
            measured["rounding"] = asdict(error) | {"reason": error.reason}
            filled["dtype"] = error.name
            if error.name != choice.name:
                remark = f" ({choice.name} is faster, but not exact enough for this model)"
    return config.model_copy(update={"model": model.model_copy(update=filled)}), measured, remark


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
    torch.set_num_threads(config.model.threads or usable_cores())
    notes = load_notes(config)
    observer.message(f"loading the base model {config.model.base}")
    base = load_base(
        config.model.base,
        revision=config.model.revision,
        dtype=torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32,
        device=device_of(config.model.device, asked_by="model.device"),
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
    data = client_data(config, notes, tags, base.tokenizer)
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
        data=data,
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


def client_data(
    config: StudyConfig, notes: StudyNotes, tags: TagFormat, tokenizer: PieceTokenizer
) -> dict[str, Mapping[Task, TaskData]]:
    """The examples of every site, of every site's part with one task, and of all together.

    Raises:
        ConfigError: Sites have no example to train on.
    """
    sites = {s.name: site_examples(config, s, tags, tokenizer) for s in notes.sites}
    if idle := [n for n, tasks in sites.items() if not all(d.train for d in tasks.values())]:
        raise ConfigError(
            f"sites {', '.join(idle)}: no training example is left; expected at least one. "
            "Raise training.negatives, or check the annotations."
        )
    data: dict[str, Mapping[Task, TaskData]] = dict(sites)
    for name, tasks in sites.items():
        data |= {client_name(name, task): {task: found} for task, found in tasks.items()}
    data[POOL] = _pool(config, list(sites.values()))
    return data


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
