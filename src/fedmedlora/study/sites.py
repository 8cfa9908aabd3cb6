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

INPUTS, WORK, SITES = "inputs.json", "work", "sites"


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
