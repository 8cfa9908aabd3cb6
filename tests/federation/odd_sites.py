"""A worker process for tests, run as a script: sites whose names say how they behave."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from fedmedlora.core.errors import ModelError
from fedmedlora.federation.worker import serve
from fedmedlora.testing.adapters import DriftingSite

CANARY = "Mrs Canary, 83, has a rash"


class OddSite(DriftingSite):
    tell = staticmethod(lambda news: None)

    def handle(self, request):
        self.tell({"process": os.getpid(), "threads": torch.get_num_threads()})
        match self.name.split("-")[0]:
            case "slow":
                while not Path(os.environ["GATE"]).exists():
                    time.sleep(0.01)
            case "hanging":
                while True:
                    time.sleep(600)
            case "dying":
                os.kill(os.getpid(), signal.SIGKILL)
            case "failing":
                raise ValueError(CANARY)
            case "greedy":
                raise MemoryError(CANARY)
        return super().handle(request)


def prepare(tell):
    OddSite.tell = staticmethod(tell)
    if sys.argv[1] == "faulty":
        raise ModelError("base: no such file.")
    if sys.argv[1] == "unreadable":
        raise ValueError(CANARY)
    if sys.argv[1] == "mute":
        os._exit(3)
    torch.set_num_threads(1)
    return lambda arm, site: OddSite(f"{site}" if not arm else f"{site}-of-{arm}", len(site))


if __name__ == "__main__":
    serve(int(sys.argv[-1]), prepare)
