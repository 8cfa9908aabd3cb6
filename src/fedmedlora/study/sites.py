"""The simulated sites of a study, wherever they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.study.reuse import ReusingSite
from fedmedlora.training.site import LocalSite
from fedmedlora.training.site_state import SiteState

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmedlora.core.records import Observer
    from fedmedlora.runs.store import RunStore
    from fedmedlora.study.prepare import Prepared

INPUTS, ADAPTERS, WORK, SITES = "inputs.json", "adapters", "work", "sites"

CHECKED = {"notes_sha256": "notes", "base_fingerprint": "base model", "start_sha256": "start"}
"""What must not change between two processes of one run, by its key in `inputs.json`."""


def identities(prepared: Prepared) -> dict[str, str]:
    """What a run depends on and its configuration does not hold."""
    found = {
        "notes_sha256": prepared.notes.digest,
        "base_fingerprint": prepared.base.fingerprint,
    }
    if prepared.config.start is not None:
        found["start_sha256"] = prepared.initial.digest()
    return found


def open_site(
    prepared: Prepared,
    store: RunStore,
    arm: str,
    client: str,
    observer: Observer,
    reused: Callable[[], None],
) -> ReusingSite:
    """A client of an arm; what it keeps lies in the run directory, so any process can open it.

    `reused` is called where it need not train, as its update is there.
    """
    state = SiteState(store.file(f"{SITES}/{client}/{arm}"))
    data = prepared.data[client]
    site = LocalSite(client, prepared.model, data, prepared.settings, observer, state)
    return ReusingSite(site, store.file(WORK), reused)
