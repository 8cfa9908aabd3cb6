"""The arms of a study: who is trained on what, by which strategy, and where it is tested."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fedmedlora.aggregation.fedavg import FedAvgConfig
from fedmedlora.models.starter import STARTER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmedlora.aggregation import StrategyConfig
    from fedmedlora.core.example import Task
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.data import Cohort

Condition = Literal["zero-shot", "start", "single-site", "centralized", "federated"]

POOL = "pooled"
"""The site name of the centralized arm, which trains on all sites' examples in one place."""

SERVER = "server-notes"
"""The site name under which the server's notes take part in the arm `fedavg+val`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to come to an adapter. Every trained arm is the same round loop over `sites`.

    `client_tasks` says what each of `sites` trains, `tasks` what all of them do.

    The arm `start` is the adapter that all others began from, without any training.

    A single-site arm is a federation of one; a centralized arm, one of the pooled notes. So equal
    epochs, restarts and seeds hold by construction, and work that is identical is done once.
    """

    name: str
    condition: Condition
    sites: tuple[str, ...]
    strategy: StrategyConfig | None
    tasks: tuple[Task, ...] = ("entities",)
    client_tasks: Mapping[str, tuple[Task, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `scores.json`."""
        federated = self.condition == "federated" and self.strategy is not None
        return {
            "name": self.name,
            "condition": self.condition,
            "site": self.sites[0] if self.condition == "single-site" else None,
            "strategy": self.strategy.model_dump() if federated and self.strategy else None,
            "tasks": list(self.tasks),
        }


def arms_of(config: StudyConfig) -> list[Arm]:
    """The arms in the order in which they run; single sites first, as others reuse their work."""
    sites: dict[str, tuple[Task, ...]] = {
        site.name: config.tasks_of(site)
        for site in sorted(config.sites, key=lambda site: site.name)
    }
    arms: list[Arm] = []
    if config.arms.zero_shot:
        arms.append(Arm("zero-shot", "zero-shot", (), None, config.tasks))
    if config.start is not None and config.arms.start:
        arms.append(Arm(start_name(config.start), "start", (), None, config.tasks))
    if config.arms.single_site:
        arms += [
            _arm(f"single-site/{name}", "single-site", {name: tasks}, FedAvgConfig())
            for name, tasks in sites.items()
        ]
    for name, wanted in _task_choices(config):
        trained = {site: tuple(t for t in tasks if t in wanted) for site, tasks in sites.items()}
        trained = {site: tasks for site, tasks in trained.items() if tasks}
        pool = tuple(task for task in wanted if any(task in own for own in trained.values()))
        if config.arms.centralized:
            arm = _arm(f"centralized{name}", "centralized", {POOL: pool}, FedAvgConfig())
            arms.append(arm)
        clients = trained
        if config.federation.clients == "task":
            clients = {
                client_name(site, task): (task,) for site, own in trained.items() for task in own
            }
        arms += [
            _arm(strategy_arm(strategy) + name, "federated", clients, strategy)
            for strategy in config.strategies
        ]
        if config.arms.fedavg_val:
            with_server = {**clients, SERVER: _given(config, pool)}
            arms.append(_arm(f"fedavg+val{name}", "federated", with_server, FedAvgConfig()))
    return arms


def start_name(start: str) -> str:
    """How the arm is called that is the start itself: by its name, if it has one."""
    return STARTER if start == STARTER else "start"


def _given(config: StudyConfig, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """The tasks among these for which the server has notes of a site or of its own."""
    server = config.server_notes
    if server is None or server.corpora:
        return tasks
    givers = [site for site in config.sites if server.asks(site.name)]
    return tuple(task for task in tasks if any(task in config.tasks_of(site) for site in givers))


def _arm(
    name: str,
    condition: Condition,
    clients: Mapping[str, tuple[Task, ...]],
    strategy: StrategyConfig,
) -> Arm:
    tasks = {task for own in clients.values() for task in own}
    both: tuple[Task, ...] = ("entities", "relations")
    ordered = tuple(task for task in both if task in tasks)
    return Arm(name, condition, tuple(clients), strategy, ordered, dict(clients))


def _task_choices(config: StudyConfig) -> list[tuple[str, tuple[Task, ...]]]:
    """What comes behind the names of arms, and their tasks."""
    found: list[tuple[str, tuple[Task, ...]]] = []
    for choice in dict.fromkeys(config.arms.tasks):
        if choice == "mix":
            found.append(("", config.tasks))
        elif choice in config.tasks:
            found.append((f"-{choice}", (choice,)))
    return found


def client_name(site: str, task: Task) -> str:
    """How a site's part is called that takes part for one task only."""
    return f"{site}.{task}"


def strategy_arm(strategy: StrategyConfig) -> str:
    """The arm's name: the strategy's, its mode, and what else differs from the default."""
    options = strategy.model_dump(exclude={"name", "mode"}, exclude_defaults=True)
    mode = getattr(strategy, "mode", None)
    return "-".join([strategy.name, *([mode] if mode else []), *_told(options)])


def _told(options: Mapping[str, Any]) -> list[str]:
    """Words say themselves what they are; of numbers the option is named."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, dict):
            found += _told(value)
        else:
            found.append(value if isinstance(value, str) else f"{name}-{value}")
    return found


def tested_on(arm: Arm, cohort: Cohort, config: StudyConfig) -> bool:
    """Whether the study tests this arm on this cohort."""
    own_only = config.evaluation.single_site_in_domain == "own"
    elsewhere = cohort.setting == "in-domain" and cohort.name not in arm.sites
    return not (arm.condition == "single-site" and own_only and elsewhere)


def num_passes(arm: Arm, cohort: Cohort) -> int:
    """How often the arm's model reads the cohort: for entities, and for relations twice.

    Relations are marked between the entities that the model found and between the gold ones.
    """
    entities = "entities" in arm.tasks
    relations = "relations" in arm.tasks and bool(cohort.modifiers)
    return entities + relations * (entities + 1)
