"""Plain messages between two processes. Nothing is pickled, so nothing that is read is run."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Pipe:
    """One end of a socket or pipe. A message is a JSON object and, behind it, bytes.

    Any thread may send; one may receive.
    """

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)
        self._sending = Lock()

    def send(self, message: Mapping[str, Any], data: bytes = b"") -> None:
        """Send a message.

        Raises:
            OSError: The other end is gone.
        """
        with self._sending:
            self._connection.send_bytes(json.dumps(dict(message)).encode())
            self._connection.send_bytes(data)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next message, as soon as it is there.

        Raises:
            EOFError: The other end is gone.
            OSError: It went in the middle of a message.
        """
        message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return message, self._connection.recv_bytes()

    def close(self) -> None:
        """The other end is told that this one is gone."""
        self._connection.close()
