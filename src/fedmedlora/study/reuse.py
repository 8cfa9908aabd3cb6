"""Local training done once: the same request to the same site has the same answer.

The first round of a site is identical in its single-site arm and in every federated arm. And a run
that is killed in the middle of a round finds the sites that were ready.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from fedmedlora.adapters.codec import FP32
from fedmedlora.adapters.exchange import SiteUpdate, Train, decode, encode
from fedmedlora.core.errors import FedMedLoRAError, RunStoreError
from fedmedlora.runs import atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.training.site import LocalSite


class ReusingSite:
    """A site that keeps its updates in a folder of its own and answers from it.

    `reused` is called where an answer was there already.
    """

    def __init__(
        self, site: LocalSite, folder: Path, reused: Callable[[], None] = lambda: None
    ) -> None:
        self._site = site
        self._folder = folder / site.name
        self._fingerprint = site.fingerprint()
        self._reused = reused

    def handle(self, request: Request) -> Reply:
        """The kept update, or the site's own answer, which is then kept."""
        if not isinstance(request, Train):
            return self._site.handle(request)
        if not request.plan.train_factors <= request.plan.share_factors:
            # The reply depends on what the site kept from earlier rounds, and leaves more of it.
            return self._site.handle(request)
        key = hashlib.sha256(self._fingerprint.encode() + encode(request, FP32)).hexdigest()
        path = self._folder / f"round-{request.plan.round_index:03d}-{key}.update"
        kept = _read(path)
        if kept is not None:
            self._reused()
            return kept
        update = self._site.handle(request)
        # A full disk must not look like a fault of the site. Keeping only saves time, and saving
        # the round will say that the disk is full.
        with suppress(RunStoreError):
            atomic.write_file(path, lambda target: _write(target, encode(update, FP32)))
        return update


def forget(folder: Path, site: str, round_index: int) -> None:
    """Drop what a site kept in the folder of a round that is saved and that no other arm shares."""
    for path in (folder / site).glob(f"round-{round_index:03d}-*.update"):
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _read(path: Path) -> SiteUpdate | None:
    """The update in a file; None if there is none that is whole. It can be computed again."""
    try:
        message = decode(path.read_bytes())
    except (OSError, FedMedLoRAError):
        return None
    return message if isinstance(message, SiteUpdate) else None
