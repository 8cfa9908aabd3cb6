"""Every setting of a study: one TOML file, checked as a whole before anything is written."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from fedmedlora.aggregation import StrategyConfig
from fedmedlora.core.errors import ConfigError

Name = str
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Config(BaseModel):
    """A part of the study file; unknown keys are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Config):
    """Where the corpora are."""

    root: Path = Path()
    """Folder that relative corpus paths start from; itself relative to the study file."""

    artificial: bool = False
    """Says on every page of the report that the notes are not real."""


class ModelConfig(Config):
    """The base model."""

    base: str = "smollm2-135m"
    """A catalog name, a folder, a `.gguf` file or a hub id."""

    revision: str = ""
    """The hub's revision."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base model. `auto` measures; the run records what was chosen."""

    threads: PositiveInt | None = None
    """Threads of the tensor library; none: all cores. The run records and keeps the number."""


class LoraConfig(Config):
    """The adapter."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 64.0

    target_modules: tuple[str, ...] | None = None
    """Names of the adapted linear modules; none: those of the catalog, else all seven of Llama."""


class PromptConfig(Config):
    """What the model reads."""

    format: Literal["compact", "html"] = "compact"

    window_tokens: int = Field(default=96, ge=16)
    """Source tokens a window may hold."""


class TrainingConfig(Config):
    """Local training, equal at all sites."""

    learning_rate: PositiveFloat = 1e-3
    """Peak AdamW rate: linear warm-up over `warmup_fraction` of a round, then cosine to 0."""

    epochs: PositiveFloat = 1.0
    """Passes over a site's examples in one round."""

    batch_tokens: PositiveInt = 1024
    """Tokens of an optimiser step, padding included."""

    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)

    negatives: float = Field(default=0.3, ge=0, le=1)
    """Share of the windows without entities that are trained on."""

    max_tokens: PositiveInt | None = None
    """Token budget of a site's training examples, prompts included; none: all."""

    max_validation_tokens: PositiveInt | None = 4096
    """Token budget of a site's own validation examples."""


class FederationConfig(Config):
    """The round loop."""

    rounds: PositiveInt = 3

    codec: Literal["fp32", "bf16"] = "bf16"
    """How adapters travel."""

    min_sites: PositiveInt | None = None
    """Updates that a round needs; none: those of all sites."""


class SplitConfig(Config):
    """Shares of a training site's notes."""

    train: PositiveFloat = 0.7
    validation: PositiveFloat = 0.1
    test: PositiveFloat = 0.2


class CorpusConfig(Config):
    """One corpus: a site's own notes, or a cohort that no arm is trained on."""

    name: Name
    corpus: Path

    labels: tuple[str, ...] | None = None
    """Entity labels in question; none: those that the corpus card says were annotated."""


class ServerNotesConfig(Config):
    """Labelled notes at the server, for strategies that weigh sites by validation loss."""

    sites: tuple[Name, ...] = ()
    """Training sites that give notes of their validation split with consent; empty: all."""

    notes_per_site: PositiveInt = 4

    max_tokens: PositiveInt | None = 8192
    """Token budget of one pass over the notes."""


class ArmsConfig(Config):
    """What the federated arms are compared with."""

    zero_shot: bool = True
    single_site: bool = True
    centralized: bool = True


class EvaluationConfig(Config):
    """Extraction and scoring."""

    presets: tuple[Literal["strict", "lenient"], ...] = ("strict", "lenient")

    max_characters: PositiveInt | None = None
    """Budget of a cohort's test notes, by a seeded draw of whole notes; none: all."""

    batch_size: PositiveInt = 64
    """Windows decoded side by side."""

    draws: PositiveInt = 10_000
    """Bootstrap draws of documents."""

    single_site_in_domain: Literal["own", "all"] = "all"
    """Whether single-site models are tested in-domain on every site's notes or on their own."""


class StudyConfig(Config):
    """A whole study."""

    name: Name
    seed: int = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    prompt: PromptConfig = PromptConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    split: SplitConfig = SplitConfig()

    sites: tuple[CorpusConfig, ...] = Field(min_length=1)
    """The training sites; their test splits are the in-domain cohorts."""

    cohorts: tuple[CorpusConfig, ...] = ()
    """Held-out cohorts, for external validation."""

    strategies: tuple[StrategyConfig, ...] = ()
    """One federated arm each. The first one's adapter is the run's own (`adapters/round-NNN`)."""

    server_notes: ServerNotesConfig | None = None
    arms: ArmsConfig = ArmsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def path_of(self, corpus: CorpusConfig) -> Path:
        """Where a corpus is."""
        return self.data.root / corpus.corpus


def load_study(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> StudyConfig:
    """The study in a TOML file, with `KEY=VALUE` overrides.

    `data.root` is resolved: relative to the file where the file says it, to the working directory
    where an override does.

    Raises:
        ConfigError: The file or an override is wrong; carries all faults, one a line.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error}).") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    data = values.setdefault("data", {})
    if isinstance(data, dict):
        root = data.get("root", ".")
        if isinstance(root, str):
            data["root"] = str((path.resolve().parent / root).resolve())
    faults = [fault for text in overrides if (fault := _override(values, text))]
    return parse_study(values, str(path), faults)


def parse_study(values: dict[str, Any], where: str, faults: list[str] | None = None) -> StudyConfig:
    """The study in plain values; `faults` found so far are reported together with new ones.

    Raises:
        ConfigError: There are faults.
    """
    faults = list(faults or [])
    config: StudyConfig | None = None
    try:
        config = StudyConfig.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            key = ".".join(str(part) for part in fault["loc"])
            hint = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"]
            faults.append(f"{where}: {key}: {hint}.")
    if config is not None:
        faults += [f"{where}: {fault}" for fault in _contradictions(config)]
    if faults or config is None:
        raise ConfigError("\n".join(faults))
    return config


def _contradictions(config: StudyConfig) -> list[str]:
    """What single fields cannot say."""
    names = [corpus.name for corpus in (*config.sites, *config.cohorts)]
    faults = [
        f"name {name!r}: expected letters, digits, '.', '_', '-', at most 64."
        for name in (config.name, *names)
        if not _NAME.fullmatch(name)
    ]
    faults += [f"name {name!r} is used for more than one site or cohort." for name in _twice(names)]
    shares = config.split.train + config.split.validation + config.split.test
    if abs(shares - 1) > 1e-6:
        faults.append(f"split: the shares add up to {shares:g}; expected 1.")
    arms = [strategy_arm(strategy) for strategy in config.strategies]
    faults += [f"strategies: {arm} is listed more than once." for arm in _twice(arms)]
    if config.server_notes is None:
        faults += [
            f"strategies: {strategy.name} weighs sites by validation loss at the server; "
            "expected [server_notes], got none. Add it, or choose fedavg or uniform."
            for strategy in config.strategies
            if strategy.build().needs_scorer
        ]
    else:
        sites = {site.name for site in config.sites}
        faults += [
            f"server_notes.sites: {name!r} is not a training site."
            for name in config.server_notes.sites
            if name not in sites
        ]
    if config.federation.min_sites and config.federation.min_sites > len(config.sites):
        faults.append("federation.min_sites: more than there are sites.")
    return faults


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def strategy_arm(strategy: StrategyConfig) -> str:
    """The arm's name: the strategy's, with the option that sets it apart."""
    mode = getattr(strategy, "mode", None)
    if mode is not None:
        return f"{strategy.name}-{mode}"
    size = getattr(strategy, "size", "tokens")
    return strategy.name if size == "tokens" else f"{strategy.name}-{size}"


def _override(values: dict[str, Any], text: str) -> str | None:
    """Set one `a.b.0.c=VALUE` in place; the fault if that cannot be done."""
    key, equals, raw = text.partition("=")
    if not equals or not key:
        return f"--set {key}: expected KEY=VALUE."
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    if key == "data.root":
        value = str(Path(str(value)).expanduser().resolve())
    *parents, last = key.split(".")
    place: Any = values
    for part in parents:
        if isinstance(place, list) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            return f"--set {key}: there is no {part!r} in the study file."
    if isinstance(place, dict):
        place[last] = value
        return None
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
        return None
    return f"--set {key}: there is no such key in the study file."
