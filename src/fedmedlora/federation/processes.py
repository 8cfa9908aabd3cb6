"""Sites in processes of their own, many at a time: one a GPU, or several on a CPU."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.adapters.codec import BF16
from fedmedlora.adapters.exchange import SiteFailure, SiteUpdate, encode
from fedmedlora.core.errors import ConfigError
from fedmedlora.federation.in_process import read_reply
from fedmedlora.federation.spool import Spool
from fedmedlora.federation.traffic import Traffic
from fedmedlora.federation.workers import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from fedmedlora.adapters.codec import Codec
    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.federation.workers import Workers


class ProcessRuntime:
    """Asks as many sites at a time as there are workers; any worker can stand in for any site.

    A site's reply is that of `InProcessRuntime`, to the bit where a worker has as many threads as
    that; only the order in which replies come is another.

    Args:
        workers: They may serve several runtimes, one after another.
        sites: Names of the sites that can be asked.
        codec: How adapters travel.
        arm: Told to the worker beside the site's name.
        work: Folder where updates wait on disk for the strategy; see `InProcessRuntime`.
        tell: Told what a worker has to say of a site while it works on it.
    """

    def __init__(
        self,
        workers: Workers,
        sites: Iterable[str],
        codec: Codec = BF16,
        *,
        arm: str = "",
        work: Path | None = None,
        tell: Callable[[str, Mapping[str, Any]], None] = lambda _site, _news: None,
    ) -> None:
        self._workers = workers
        self._sites = frozenset(sites)
        self._codec = codec
        self._arm = arm
        self._work = work
        self._tell = tell
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        """Bytes carried so far."""
        return self._traffic

    def call(
        self, requests: Mapping[str, Request], deadline_seconds: float | None = None
    ) -> Iterator[Reply]:
        """One reply a site, as they come.

        A site has `deadline_seconds` from when a worker has its request; how many workers there are
        must not decide who is late. The process of a site that is late or lost is replaced.

        Raises:
            ConfigError: A request is for a site that is not here.
            FedMedLoRAError: A worker cannot be started.
            RunStoreError: An update cannot be written to `work`.
            RuntimeError: The replies to an earlier call have not been read to their end.
        """
        unknown = sorted(requests.keys() - self._sites)
        if unknown:
            raise ConfigError(
                f"processes: no site named {', '.join(unknown)}; "
                f"expected one of {', '.join(sorted(self._sites))}."
            )
        torch.cuda.empty_cache()  # of a GPU that a worker shares with this process
        spool = Spool(self._work) if self._work is not None else None
        jobs = [
            Job(
                site,
                {"arm": self._arm, "site": site, "codec": self._codec.name},
                partial(self._sent, site, request),
            )
            for site, request in requests.items()
        ]
        with closing(self._workers.answers(jobs, deadline_seconds, self._tell)) as answers:
            for site, answer in answers:
                reply = (
                    self._received(site, answer)
                    if isinstance(answer, bytes)
                    else (SiteFailure(site, answer))
                )
                if spool is not None and isinstance(reply, SiteUpdate):
                    reply = replace(reply, adapter=spool.keep(reply.adapter))
                yield reply

    def _sent(self, site: str, request: Request) -> bytes:
        data = encode(request, self._codec)
        self._traffic.sent_down(site, len(data))
        return data

    def _received(self, site: str, data: bytes) -> Reply:
        self._traffic.sent_up(site, len(data))
        return read_reply(site, data)
