"""Every setting of a study, with its default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from fedmedlora.aggregation import StrategyConfig

Name = str

TaskName = Literal["entities", "relations"]


class Config(BaseModel):
    """A part of the study file; unknown keys are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DamageConfig(Config):
    """Artificial damage to a site's training notes, for experiments on what a method withstands.

    The site's validation and test notes stay as they are.
    """

    site: Name

    kind: Literal["flip-labels", "permute-labels"] = "flip-labels"
    """`flip-labels`: another label of the site, drawn anew for each entity. `permute-labels`: the
    next one in the order of the schema, as under a guideline that was misread."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Of the entities that get a wrong label, drawn by seed."""


class DataConfig(Config):
    """Where the corpora are."""

    root: Path = Path()
    """Folder that relative corpus paths start from; itself relative to the study file."""

    artificial: bool = False
    """Says on every page of the report that the notes are not real."""

    damage: DamageConfig | None = None
    """Wrong labels that are put into one site's training notes on purpose."""


class ModelConfig(Config):
    """The base model."""

    base: str = "smollm2-135m"
    """A catalog name, a folder, a `.gguf` file or a hub id."""

    revision: str = ""
    """The hub's revision."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base model. `auto` measures; the run records what was chosen."""

    kernel: Literal["auto", "torch", "onednn"] = "auto"
    """What multiplies float32 weights on a CPU. `auto` measures."""

    attention: Literal["auto", "plain", "flex"] = "auto"
    """How training computes attention. `auto`: on a GPU by FlexAttention (`flex`) if a trial there
    agrees with the plain way; the run records what was chosen."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto`: on a GPU if there is one."""

    quantisation: Literal["none", "4bit"] = "none"
    """`4bit` holds the frozen base model in NF4, a quarter of bfloat16, and trains more slowly."""

    threads: PositiveInt | None = None
    """Threads of the tensor library; none: as many as are fastest here, by measurement. The run
    records and keeps the number."""


class LoraConfig(Config):
    """The adapter."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 64.0

    target_modules: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of the adapted linear modules; none: those of the catalog, else all seven of Llama."""


class PromptConfig(Config):
    """What the model reads."""

    format: Literal["compact", "html"] = "compact"

    window_tokens: int = Field(default=96, ge=32)
    """Source tokens a window may hold."""


class TrainingConfig(Config):
    """Local training, equal at all sites."""

    learning_rate: PositiveFloat = 1e-3
    """Peak AdamW rate: linear warm-up over `warmup_fraction` of a round, then cosine to 0."""

    epochs: PositiveFloat = 1.0
    """Passes over a site's examples in one round."""

    batch_tokens: PositiveInt = 512
    """Tokens of an optimiser step. The instruction, which examples share, does not count: a step
    learns from as many examples whatever the prompt's format. Small steps suit small budgets."""

    micro_batch_tokens: PositiveInt | None = None
    """Tokens that one pass reads, instructions and padding included; a step of more takes several
    passes and is the same step, in less memory. None: one pass."""

    relation_share: Annotated[float, Field(gt=0, lt=1)] | Literal["tokens"] = 0.5
    """Where a site trains both tasks, how much of the loss the relation task makes, between 0 and
    1, whatever the number of its tokens; `tokens`: a completion token counts as any other."""

    recompute_layers: bool = False
    """Keep no activations within layers but compute them again: far less memory, a third slower."""

    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)

    negatives: float = Field(default=0.3, ge=0, le=1)
    """Share of the windows without entities (or modifiers) that are trained on."""

    max_tokens: PositiveInt | None = None
    """Token budget of a site's training examples of each task, prompts included; none: all."""

    max_relation_tokens: PositiveInt | None = None
    """Another budget for the examples of the relation task; none: that of `max_tokens`."""

    max_validation_tokens: PositiveInt | None = 4096
    """Token budget of a site's own validation examples of each task."""


class FederationConfig(Config):
    """The round loop."""

    rounds: PositiveInt = 3

    codec: Literal["fp32", "bf16"] = "bf16"
    """How adapters travel."""

    clients: Literal["site", "task"] = "site"
    """Whether a site with two tasks takes part as one client with both, or, as the paper may also
    be read, as two clients with one each."""

    min_sites: PositiveInt | None = None
    """Updates that a round needs; none: those of all sites."""

    processes: Annotated[int, Field(ge=0)] | Literal["auto", "gpus"] = "auto"
    """Worker processes that train sites side by side, each with a base model of its own beside the
    run's. `"gpus"`: one for each GPU that this process sees. On a CPU they share `model.threads`
    out, which a result depends on in its last bits. 0: none, one site after another. `auto`: on a
    CPU, some if they save time by measurement and fit in memory; the run records the number."""


class SplitConfig(Config):
    """Shares of a training site's notes."""

    train: PositiveFloat = 0.7
    validation: PositiveFloat = 0.1
    test: PositiveFloat = 0.2


class CorpusConfig(Config):
    """One corpus: a site's own notes, or a cohort that no arm is trained on."""

    name: Name
    corpus: Path

    labels: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Entity labels in question; none: those that the corpus card says were annotated."""

    modifiers: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Modifier labels in question, for the relation task; none: those of the corpus card."""

    group: str | None = None
    """Regular expression over note ids; notes with the same first group come from one source and
    are never parted by a split. Notes of one patient or with one text are kept together anyway."""


class SiteConfig(CorpusConfig):
    """One training site."""

    tasks: tuple[TaskName, ...] | None = Field(default=None, min_length=1)
    """What the site trains; none: the tasks of the study."""


class ServerNotesConfig(Config):
    """Labelled notes at the server, for strategies that weigh sites by validation loss."""

    sites: tuple[Name, ...] = ()
    """Training sites that give notes of their validation split with consent; empty: all, or none if
    the server has `corpora`."""

    corpora: tuple[CorpusConfig, ...] = ()
    """Corpora of the server's own, public ones for example, on which no arm is tested."""

    notes_per_site: PositiveInt = 4
    """Of each site that gives some, and of each of the server's own corpora."""

    max_tokens: PositiveInt | None = 8192
    """Token budget of one pass over the notes."""

    def asks(self, site: Name) -> bool:
        """Whether a training site of this name gives notes."""
        return site in self.sites if self.sites else not self.corpora


class ArmsConfig(Config):
    """What the federated arms are compared with."""

    zero_shot: bool = True

    start: bool = True
    """The adapter that training begins from, as it is; only where the study has a `start`."""

    single_site: bool = True
    centralized: bool = True

    fedavg_val: bool = False
    """`fedavg` with the server's notes as the training notes of one more site, because weighing
    sites by them takes labelled notes that the other arms do not get."""

    tasks: tuple[Literal["mix", "entities", "relations"], ...] = Field(
        default=("mix",), min_length=1
    )
    """What federated and centralized arms train: all tasks of the study in one adapter (`mix`), or
    one alone. Each of these arms is made for each of these."""


class EvaluationConfig(Config):
    """Extraction and scoring."""

    presets: tuple[Literal["strict", "lenient"], ...] = Field(
        default=("strict", "lenient"), min_length=1
    )

    max_characters: PositiveInt | None = None
    """Budget of a cohort's test notes, by a seeded draw of whole notes; none: all."""

    batch_size: PositiveInt = 64
    """Windows decoded side by side."""

    open_bonus: Annotated[float, Field(ge=0, le=4)] | Literal["auto"] = 0.0
    """Log odds that a tag is given where it may open. F1 is highest where tags open below even
    odds, and a model of few notes marks too little at 0. `auto`: for each arm and task what is best
    on validation notes of the sites that it was trained on."""

    draws: PositiveInt = 10_000
    """Bootstrap draws of documents."""

    single_site_in_domain: Literal["own", "all"] = "all"
    """Whether single-site models are tested in-domain on every site's notes or on their own."""


class StudyConfig(Config):
    """A whole study."""

    name: Name
    seed: int = 0

    about: str = ""
    """What the report says at its top: what this study can show, and what it cannot."""

    start: Annotated[str, Field(min_length=1)] | None = None
    """The adapter that all training begins from instead of a fresh one: `starter`, the one that
    comes with the package, or a run directory or an adapter folder, relative to the study file.
    What `lora` and `prompt` leave out is then as the adapter has it."""

    tasks: tuple[TaskName, ...] = Field(default=("entities",), min_length=1)
    """Marking entities, and marking their modifiers with what they belong to."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    prompt: PromptConfig = PromptConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    split: SplitConfig = SplitConfig()

    sites: tuple[SiteConfig, ...] = Field(min_length=1)
    """The training sites; their test splits are the in-domain cohorts."""

    cohorts: tuple[CorpusConfig, ...] = ()
    """Held-out cohorts, for external validation."""

    strategies: tuple[StrategyConfig, ...] = ()
    """One federated arm each. The first one's adapter is the run's own (`adapters/round-NNN`)."""

    server_notes: ServerNotesConfig | None = None
    arms: ArmsConfig = ArmsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def tasks_of(self, site: SiteConfig) -> tuple[TaskName, ...]:
        """What a site trains, in the study's order."""
        wanted = self.tasks if site.tasks is None else site.tasks
        return tuple(task for task in self.tasks if task in wanted)

    def path_of(self, corpus: CorpusConfig) -> Path:
        """Where a corpus is."""
        return self.data.root / corpus.corpus
