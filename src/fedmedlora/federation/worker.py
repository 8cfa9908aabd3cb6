"""The inside of a worker process: requests come in over a pipe, replies and news go out."""

from __future__ import annotations

import logging
import os
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from fedmedlora.adapters.codec import CODECS
from fedmedlora.federation.in_process import answer_at_site, describe
from fedmedlora.federation.pipe import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmedlora.federation.runtime import SiteHandler

    Tell = Callable[[Mapping[str, Any]], None]
    OpenSite = Callable[[str, str], SiteHandler]

    Message = tuple[dict[str, Any], bytes]


def serve(descriptor: int, prepare: Callable[[Tell], OpenSite]) -> None:
    """Answer requests for sites until the other end of the pipe is gone; then this process ends.

    Args:
        descriptor: This process's end of the pipe, inherited.
        prepare: Called once, to load what sites need. It is given what passes plain news on to the
            other end, and gives what opens a site by arm and name.

    Raises:
        SystemExit: `prepare` failed; the other end was told why.
    """
    os.set_inheritable(descriptor, False)
    pipe = Pipe(descriptor)
    requests: SimpleQueue[Message] = SimpleQueue()
    Thread(target=_receive, args=(pipe, requests), daemon=True).start()
    _pass_logs_on(pipe)
    try:
        open_site = prepare(lambda news: pipe.send({"news": dict(news)}))
    except Exception as error:  # its text may be anything, and would be printed
        pipe.send({"fault": describe(error)})
        raise SystemExit(1) from None
    pipe.send({"ready": True})
    while True:
        _answer(pipe, open_site, *requests.get())


def _receive(pipe: Pipe, requests: SimpleQueue[Message]) -> None:
    """In a thread of its own, so that a process whose parent was killed ends in mid-work."""
    try:
        while True:
            requests.put(pipe.receive())
    except (EOFError, OSError):
        os._exit(1)


def _answer(pipe: Pipe, open_site: OpenSite, header: dict[str, Any], request: bytes) -> None:
    arm, site = header["arm"], header["site"]
    codec = CODECS[header["codec"]]
    reply = answer_at_site(
        site, lambda received: open_site(arm, site).handle(received), request, codec
    )
    torch.cuda.empty_cache()  # of a GPU that is shared; while it waits, others may need it
    pipe.send({"reply": site}, reply)


class _PipedLog(logging.Handler):
    """Log lines of ours appear where the parent's do."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self._pipe.send(
            {"log": record.getMessage(), "level": record.levelno, "logger": record.name}
        )


def _pass_logs_on(pipe: Pipe) -> None:
    ours = logging.getLogger("fedmedlora")
    ours.handlers[:] = [_PipedLog(pipe)]
    ours.propagate = False
