"""The study file: TOML and overrides, checked as a whole before anything is written."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmedlora.core.errors import ConfigError
from fedmedlora.study.conditions import POOL, SERVER, arms_of, client_name, strategy_arm
from fedmedlora.study.config import SplitConfig, StudyConfig
from fedmedlora.study.data import load_notes
from fedmedlora.study.start import faults_of_start, resolved_place, with_start
from fedmedlora.study.strategy_faults import faults_of_strategies

_NAME = re.compile(r"(?!.*--)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""`--` stands between arm and cohort in the names of prediction files."""


def load_study(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> StudyConfig:
    """The study in a TOML file, with `KEY=VALUE` overrides.

    `data.root` is resolved: relative to the file where the file says it, to the working directory
    where an override does.

    Raises:
        ConfigError: The file or an override is wrong; carries all faults, one a line, those of the
            notes included.
    """
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML ({error}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    data = values.setdefault("data", {})
    if isinstance(data, dict):
        root = data.get("root", ".")
        if isinstance(root, str):
            data["root"] = str((path.resolve().parent / root).resolve())
    if isinstance(values.get("start"), str):
        values["start"] = resolved_place(values["start"], path.resolve().parent)
    faults = [fault for text in overrides if (fault := _override(values, text))]
    return parse_study(values, str(path), faults)


def parse_study(values: dict[str, Any], where: str, faults: list[str] | None = None) -> StudyConfig:
    """The study in plain values; `faults` found so far are reported together with new ones.

    Notes are read only where there is a fault, to report theirs as well.

    Raises:
        ConfigError: There are faults.
    """
    faults = list(faults or [])
    config: StudyConfig | None = None
    doubtful: set[str] = set()
    try:
        config = _validated(values)
    except ValidationError as error:
        wrong = _wrong_parts(error)
        faults += [f"{where}: {'.'.join(map(str, place))}: {hint}." for place, hint in wrong]
        doubtful = {str(place[0]) for place, _ in wrong}
        config = _sound_rest(values, [place for place, _ in wrong])
    if config is not None:
        faults += [f"{where}: {fault}" for fault in _contradictions(config, doubtful)]
    if faults and config is not None and "data" not in doubtful:
        faults += _faults_of_notes(config)
    if faults or config is None:
        raise ConfigError("\n".join(faults))
    return config


def _validated(values: dict[str, Any]) -> StudyConfig:
    """The study; a number in quotes or a yes for a number is no number.

    Through JSON, because only there strictness lets lists be tuples and strings be paths.
    """
    return StudyConfig.model_validate_json(json.dumps(values, default=str), strict=True)


Place = tuple[int | str, ...]


def _wrong_parts(error: ValidationError) -> list[tuple[Place, str]]:
    """Where each fault is, and what is wrong there."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    places = [fault["loc"] for fault in found]
    wrong = []
    for fault in found:
        place, hint = fault["loc"], fault["msg"]
        # A list whose items are wrong is told to be too short as well.
        inside = any(other[: len(place)] == place != other for other in places)
        if not (fault["type"] == "too_short" and inside):
            wrong.append((place, "unknown key" if fault["type"] == "extra_forbidden" else hint))
    return wrong


def _sound_rest(values: dict[str, Any], wrong: list[Place]) -> StudyConfig | None:
    """The study without the parts that are wrong, to look for faults in the others."""
    rest = copy.deepcopy(values)
    lists = ("sites", "cohorts", "strategies")
    items = {place[:2] for place in wrong if place[0] in lists and len(place) > 1}
    for key in lists:
        if isinstance(rest.get(key), list):
            rest[key] = [v for i, v in enumerate(rest[key]) if (key, i) not in items]
    for place in wrong:
        if place[:2] not in items:
            rest.pop(str(place[0]), None)
    rest.setdefault("name", "unnamed")
    try:
        return _validated(rest)
    except ValidationError:
        return None


def _faults_of_notes(config: StudyConfig) -> list[str]:
    """What is wrong with the notes of a study that has other faults already."""
    if _shares(config) != 1:
        config = config.model_copy(update={"split": SplitConfig()})
    try:
        load_notes(config)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _shares(config: StudyConfig) -> float:
    return round(config.split.train + config.split.validation + config.split.test, 9)


def _contradictions(config: StudyConfig, doubtful: set[str]) -> list[str]:
    """What single fields cannot say. Nothing is concluded from a part that is `doubtful`."""
    own = () if config.server_notes is None else config.server_notes.corpora
    corpora = (*config.sites, *config.cohorts, *own)
    names = [corpus.name for corpus in corpora]
    faults = [
        f"name {name!r}: expected letters, digits, '.', '_' and single '-', at most 64."
        for name in (config.name, *names)
        if not _NAME.fullmatch(name)
    ]
    for taken, stands_for in ((POOL, "all sites"), (SERVER, "the server")):
        if taken in names:
            faults.append(f"name {taken!r}: stands for the notes of {stands_for}; choose another.")
    faults += [
        f"name {name!r} is used for more than one site, cohort or corpus." for name in _twice(names)
    ]
    trained = [config.path_of(site).resolve() for site in config.sites]
    tested = [config.path_of(cohort).resolve() for cohort in config.cohorts]
    faults += [
        f"corpus {str(path)!r} of a training site is named more than once; its notes would be "
        "trained on at one place and tested on at another."
        for path in sorted(set(trained))
        if (trained + tested).count(path) > 1
    ]
    faults += [
        f"server_notes.corpora: {corpus.name}: {str(config.path_of(corpus).resolve())!r} is also a "
        "site's or a cohort's; the server would judge by notes that are trained or tested on. Name "
        "another corpus, or the site in server_notes.sites."
        for corpus in own
        if config.path_of(corpus).resolve() in (*trained, *tested)
    ]
    base = config.model.base
    local = base.startswith((".", "/", "~")) or base.endswith(".gguf")
    if local and not Path(base).expanduser().exists():
        faults.append(f"model.base: {base}: no such file or folder.")
    faults += [
        f"{corpus.name}: group is not a regular expression with one group."
        for corpus in corpora
        if corpus.group is not None and not _has_one_group(corpus.group)
    ]
    if _shares(config) != 1:
        faults.append(f"split: the shares add up to {_shares(config):g}; expected 1.")
    faults += [f"evaluation.presets: {p} occurs twice." for p in _twice(config.evaluation.presets)]
    arms = [strategy_arm(strategy) for strategy in config.strategies]
    faults += [f"strategies: {arm} is listed more than once." for arm in _twice(arms)]
    others = {key: on for key, on in vars(config.arms).items() if key != "start" or config.start}
    idle = not arms and True not in others.values()
    if idle and not doubtful & {"strategies", "arms"}:
        faults.append("arms: all are switched off, and no strategy is listed; nothing to do.")
    if not doubtful & {"tasks", "sites", "arms", "federation", "strategies", "server_notes"}:
        found = _faults_of_tasks(config)
        # Arms can be told only where it is clear what they train.
        faults += found or _faults_of_arms(config, _rank(config, doubtful))
    if not doubtful & {"start", "lora", "model"}:
        faults += faults_of_start(config)
    damage = config.data.damage
    if damage and "sites" not in doubtful and damage.site not in [s.name for s in config.sites]:
        faults.append(f"data.damage.site: {damage.site!r} is not a training site.")
    if "server_notes" not in doubtful:
        faults += _faults_of_server_notes(config, "sites" not in doubtful)
    return faults


def _rank(config: StudyConfig, doubtful: set[str]) -> int | None:
    """The adapters' rank; None where it cannot be told."""
    unknown = "start" if "rank" not in config.lora.model_fields_set and config.start else "lora"
    if unknown == "start" and not faults_of_start(config):
        return with_start(config).lora.rank
    return None if unknown in doubtful or unknown == "start" else config.lora.rank


def _faults_of_tasks(config: StudyConfig) -> list[str]:
    """Tasks that are named twice, that the study does not have, or that nobody could train."""
    told: list[tuple[str, tuple[str, ...]]] = [
        ("tasks", config.tasks),
        ("arms.tasks", config.arms.tasks),
        *((f"{site.name}: tasks", site.tasks or ()) for site in config.sites),
    ]
    faults = [f"{where}: {task} occurs twice." for where, tasks in told for task in _twice(tasks)]
    faults += [
        f"{where}: {task} is not a task of the study; expected some of {', '.join(config.tasks)}. "
        f"Add it to tasks, or leave it out here."
        for where, tasks in told
        for task in tasks
        if task not in (*config.tasks, "mix")
    ]
    faults += [
        f"tasks: no site trains {task}; expected at least one. Take it out of tasks, or add it to "
        "the tasks of a site."
        for task in config.tasks
        if not any(task in config.tasks_of(site) for site in config.sites)
    ]
    names = {site.name for site in config.sites}
    faults += [
        f"name {name!r}: stands for a part of site {site.name!r}; choose another."
        for site in config.sites
        for task in config.tasks
        if (name := client_name(site.name, task)) in names
    ]
    server = config.server_notes
    givers = () if server is None or server.corpora else server.sites
    faults += [
        f"server_notes.sites: none of them trains {task}; expected at least one, to judge what is "
        "learned of it. Name another site, or none for all."
        for task in config.tasks
        if givers and not any(task in config.tasks_of(s) for s in config.sites if s.name in givers)
    ]
    return faults


def _faults_of_arms(config: StudyConfig, rank: int | None) -> list[str]:
    """Arms of one name, and federated ones whose sites are too few or not their strategy's."""
    arms = arms_of(config)
    by_strategy = [strategy_arm(strategy) for strategy in config.strategies]
    faults = [
        f"arms: two are called {name}, by a strategy's option and by arms.tasks. Leave one out."
        for name in _twice([arm.name for arm in arms])
        if name not in _twice(by_strategy)
    ]
    most = config.federation.min_sites
    federated = [arm for arm in arms if arm.condition == "federated"]
    few = min(federated, key=lambda arm: len(arm.sites), default=None)
    if most and few is not None and most > len(few.sites):
        faults.append(
            f"federation.min_sites: {most}, but there are {len(few.sites)} sites in the arm "
            f"{few.name}."
        )
    return faults + faults_of_strategies(config.strategies, arms, rank)


def _has_one_group(pattern: str) -> bool:
    try:
        return re.compile(pattern).groups == 1
    except re.error:
        return False


def _faults_of_server_notes(config: StudyConfig, sites_are_known: bool) -> list[str]:
    if config.server_notes is None:
        wanting = ["arms.fedavg_val: expected [server_notes], got none. Add it."]
        return (wanting if config.arms.fedavg_val else []) + [
            f"strategies: {strategy.name} weighs sites by validation loss at the server; "
            "expected [server_notes], got none. Add it, or choose fedavg or uniform."
            for strategy in config.strategies
            if strategy.build().needs_scorer
        ]
    sites = {site.name for site in config.sites}
    return [
        f"server_notes.sites: {name!r} is not a training site."
        for name in config.server_notes.sites
        if name not in sites and sites_are_known
    ]


def _twice(names: list[str] | tuple[str, ...]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


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
        text = value if isinstance(value, str) else raw
        value = str(Path(text).expanduser().resolve())
    if key == "start" and isinstance(value, str):
        value = resolved_place(value, Path.cwd())
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
