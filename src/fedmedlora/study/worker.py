"""Sites of a study in worker processes: how these are started, and what runs in them.

A worker is told the run directory and loads notes and base model itself, as `prepare` does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import RunStoreError
from fedmedlora.core.records import SilentObserver
from fedmedlora.federation.worker import serve
from fedmedlora.federation.workers import WorkerCommand
from fedmedlora.runs.store import RunStore
from fedmedlora.study.devices import visible_gpus, worker_threads
from fedmedlora.study.prepare import prepare
from fedmedlora.study.sites import CHECKED, INPUTS, identities, open_site
from fedmedlora.study.study_file import parse_study

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmedlora.federation.runtime import SiteHandler
    from fedmedlora.federation.worker import OpenSite, Tell
    from fedmedlora.study.config import StudyConfig
    from fedmedlora.study.time_left import Meter


def worker_commands(config: StudyConfig, run: Path) -> list[WorkerCommand]:
    """The workers of a resolved study. On GPUs, each of them sees one alone."""
    threads = worker_threads(config)
    # -P: a file of the working directory must not stand in for a module.
    arguments = (sys.executable, "-P", "-m", __name__, str(run.resolve()), str(threads))
    gpus = visible_gpus() if config.model.device == "cuda" else []
    return [
        WorkerCommand(arguments, {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {})
        for n in range(int(config.federation.processes))
    ]


def pass_news_on(meter: Meter, tokens: Mapping[str, float]) -> Callable[[str, Any], None]:
    """What tells a meter how far workers are; `tokens` are those of a client's round."""

    def tell(client: str, news: Mapping[str, Any]) -> None:
        if "advance" in news:
            meter.advance(news["advance"], **news["figures"])
        elif "message" in news:
            meter.message(news["message"])
        elif "reused" in news:
            meter.skip(tokens[client], 0)

    return tell


class _Telling(SilentObserver):
    """Sends what an observer is told during training to the run's own process."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:  # noqa: ARG002
        self._tell({"advance": amount, "figures": figures})

    def message(self, text: str) -> None:
        self._tell({"message": text})


def _open_sites(run: Path, threads: int, tell: Tell) -> OpenSite:
    """What opens a client by arm and name.

    Raises:
        RunStoreError: Notes or base model are not those that the run was started with.
        FedMedLoRAError: They cannot be loaded.
    """
    store = RunStore.open(run)
    config = parse_study(dict(store.config), str(run / "config.json"))
    model = config.model.model_copy(update={"threads": threads})
    prepared = prepare(config.model_copy(update={"model": model}), SilentObserver())
    inputs = store.read_json(INPUTS)
    found = identities(prepared)
    if changed := [what for key, what in CHECKED.items() if inputs.get(key) != found.get(key)]:
        raise RunStoreError(f"{run}: the {changed[0]} changed while the run ran. Start a new run.")
    sites: dict[tuple[str, str], SiteHandler] = {}

    def open_once(arm: str, client: str) -> SiteHandler:
        if (arm, client) not in sites:
            sites[arm, client] = open_site(
                prepared, store, arm, client, _Telling(tell), lambda: tell({"reused": True})
            )
        return sites[arm, client]

    return open_once


def main() -> None:
    """Serve the sites of the run that the arguments name, with so many threads, over a pipe."""
    run, threads, descriptor = sys.argv[1:]
    serve(int(descriptor), lambda tell: _open_sites(Path(run), int(threads), tell))


if __name__ == "__main__":
    main()
