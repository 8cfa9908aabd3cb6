"""Sites in this process, behind the same wall: every message really becomes bytes and back."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from fedmedlora.adapters.codec import BF16
from fedmedlora.adapters.exchange import (
    FailureCode,
    Score,
    SiteFailure,
    SiteScores,
    SiteUpdate,
    Train,
    decode,
    encode,
)
from fedmedlora.core.errors import ConfigError, FedMedLoRAError, kind_and_place
from fedmedlora.federation.spool import Spool
from fedmedlora.federation.traffic import Traffic
from fedmedlora.runs.machine_memory import release_free_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from fedmedlora.adapters.codec import Codec
    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.federation.runtime import SiteHandler

Direction = Literal["down", "up"]

logger = logging.getLogger(__name__)


class InProcessRuntime:
    """Asks the sites one after another, in the order of the requests.

    The deadline is ignored: a function call cannot be abandoned. `tap` sees every byte in both
    directions, which is how tests look at what leaves a site. With a folder `work`, updates wait
    there on disk for the strategy, so that fifty sites need no more memory than one.
    """

    def __init__(
        self,
        sites: Mapping[str, SiteHandler],
        codec: Codec = BF16,
        tap: Callable[[Direction, str, bytes], None] | None = None,
        work: Path | None = None,
    ) -> None:
        self._sites = dict(sites)
        self._work = work
        self._codec = codec
        self._tap = tap
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        """Bytes carried so far."""
        return self._traffic

    def call(
        self,
        requests: Mapping[str, Request],
        deadline_seconds: float | None = None,  # noqa: ARG002  # part of the protocol
    ) -> Iterator[Reply]:
        """One reply a site, in the order of the requests.

        Raises:
            ConfigError: A request is for a site that is not here.
            RunStoreError: An update cannot be written to `work`.
        """
        unknown = sorted(requests.keys() - self._sites.keys())
        if unknown:
            raise ConfigError(
                f"in-process runtime: no site named {', '.join(unknown)}; "
                f"expected one of {', '.join(sorted(self._sites))}."
            )
        spool = Spool(self._work) if self._work is not None else None
        for site, request in requests.items():
            reply = self._carried(site, request)
            if spool is not None and isinstance(reply, SiteUpdate):
                reply = replace(reply, adapter=spool.keep(reply.adapter))
            release_free_memory()  # or the next site trains between the holes that this one left
            yield reply

    def _carried(self, site: str, request: Request) -> Reply:
        """The reply of a site. What went over the wall is gone before the next site is asked."""
        sent = encode(request, self._codec)
        self._traffic.sent_down(site, len(sent))
        if self._tap:
            self._tap("down", site, sent)
        returned = self._at_site(site, sent)
        self._traffic.sent_up(site, len(returned))
        if self._tap:
            self._tap("up", site, returned)
        return read_reply(site, returned)

    def _at_site(self, site: str, data: bytes) -> bytes:
        return answer_at_site(
            site, lambda request: self._sites[site].handle(request), data, self._codec
        )


def answer_at_site(
    site: str, handle: Callable[[Request], Reply], data: bytes, codec: Codec
) -> bytes:
    """The site's side of the wall: bytes in, bytes out, no exception and no text."""
    try:
        request = decode(data)
        if not isinstance(request, Train | Score):
            return encode(SiteFailure(site, "bad-request"))
        return encode(handle(request), codec)
    except Exception as error:  # whatever it is, only a code may leave
        logger.error("site %s: %s", site, describe(error))
        return encode(SiteFailure(site, _failure_code(error)))


def read_reply(site: str, data: bytes) -> Reply:
    """The server's side of the wall: the reply; a failure if the bytes hold none of this site."""
    try:
        reply = decode(data)
    except FedMedLoRAError as error:
        logger.error("reply of site %s: %s", site, error)
        return SiteFailure(site, "bad-reply")
    if not isinstance(reply, SiteUpdate | SiteScores | SiteFailure):
        return SiteFailure(site, "bad-reply")
    if reply.site != site:
        return SiteFailure(site, "wrong-site")
    return reply


def _failure_code(error: Exception) -> FailureCode:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out-of-memory"
    return "error"


def describe(error: Exception) -> str:
    """Our own messages in full, as they hold no note text; of others only kind and place."""
    if isinstance(error, FedMedLoRAError):
        return str(error)
    return kind_and_place(error)
