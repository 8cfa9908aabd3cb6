"""Sites in worker processes answer as in this one; a process that fails is one site's failure."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedmedlora.adapters.codec import BF16, FP32
from fedmedlora.adapters.exchange import LocalPlan, Reply, Score, SiteFailure, SiteUpdate, Train
from fedmedlora.aggregation.fedavg import FedAvg
from fedmedlora.core.errors import AggregationError, ConfigError, FedMedLoRAError
from fedmedlora.core.records import RoundRecord, SilentObserver
from fedmedlora.federation.checkpoint import Checkpoint
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.federation.loop import Outcome, run_rounds
from fedmedlora.federation.processes import ProcessRuntime
from fedmedlora.federation.workers import WorkerCommand, Workers
from fedmedlora.testing.adapters import DriftingSite, random_adapter

SCRIPT = str(Path(__file__).with_name("odd_sites.py"))
REQUEST = Train(LocalPlan(1, seed=5), random_adapter(0))
SOUND = ["east", "north", "south-west", "up", "west"]
ODD = ["dying", "failing", "greedy", "hanging", "slow"]


def command(way: str = "sound", gate: Path = Path("/")) -> WorkerCommand:
    environment = {"OMP_NUM_THREADS": "1", "GATE": str(gate)}
    return WorkerCommand((sys.executable, SCRIPT, way), environment)


class Gated(Workers):
    """Sites named slow wait for a file: it is there after the first reply of `slow_last`."""

    def __init__(self, number: int, gate: Path) -> None:
        super().__init__([command(gate=gate)] * number)
        self.gate = gate

    def slow_last(self, carrier: ProcessRuntime, sites: Iterable[str]) -> Iterator[Reply]:
        self.gate.unlink(missing_ok=True)
        for reply in carrier.call(dict.fromkeys(sites, REQUEST)):
            self.gate.touch()
            yield reply


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    """Two workers; those that a test kills are replaced when the next one needs them."""
    with Gated(2, tmp_path_factory.mktemp("gate") / "open") as workers:
        yield workers


class Clock:
    """What the workers take for the time; it stands still until a test moves it on."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedmedlora.federation.workers.time", clock)
    return clock


def runtime(workers: Workers, **options: object) -> ProcessRuntime:
    return ProcessRuntime(workers, [*SOUND, *ODD], **{"codec": FP32} | options)


def let_both_start(workers: Gated) -> None:
    """After this, both have answered and are idle."""
    assert len(list(workers.slow_last(runtime(workers), ["slow", "up"]))) == 2
    assert len(workers.process_ids) == 2


def in_process(**options: object) -> InProcessRuntime:
    sites = {name: DriftingSite(name, len(name)) for name in SOUND}
    return InProcessRuntime(sites, **{"codec": FP32} | options)


def is_gone(process_id: int) -> bool:
    """Whether there is no such process, not even one that waits to be buried."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


def has_ended(process_id: int) -> bool:
    """As `is_gone`; an orphan may wait a while until whoever adopted it buries it."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return is_gone(process_id)


def wait_until(is_true: Callable[[], bool]) -> None:
    """If it never is, pytest's own limit ends the test."""
    while not is_true():
        time.sleep(0.02)


# As in process -------------------------------------------------------------------------------


def rounds(carrier: object, folder: Path | None = None, **options: object) -> Outcome:
    settings = {
        "arm": "fedavg",
        "strategy": FedAvg(),
        "runtime": carrier,
        "sites": SOUND,
        "num_rounds": 3,
        "adapter": random_adapter(0),
        "plan": LocalPlan(0),
        "seed": 1,
        "checkpoint": None if folder is None else Checkpoint(folder),
    }
    return run_rounds(**settings | options)


def without_time(records: tuple[RoundRecord, ...]) -> list[RoundRecord]:
    return [replace(record, elapsed_seconds=0.0, site_seconds={}) for record in records]


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("codec", [FP32, BF16], ids=["fp32", "bf16"])
def test_rounds_have_the_bits_and_the_traffic_of_rounds_in_one_process(
    shared: Gated, tmp_path: Path, codec
) -> None:
    apart, together = runtime(shared, codec=codec, work=tmp_path / "work"), in_process(codec=codec)

    found = rounds(apart, tmp_path / "apart")
    expected = rounds(together, tmp_path / "together")

    assert found.adapter == expected.adapter
    assert without_time(found.records) == without_time(expected.records)
    assert files(tmp_path / "apart") == files(tmp_path / "together")
    assert len(files(tmp_path / "apart")) >= 3
    assert apart.traffic == together.traffic
    assert not any((tmp_path / "work").iterdir())


def test_rounds_that_were_broken_off_go_on_with_the_same_bits(
    shared: Gated, tmp_path: Path
) -> None:
    class Interrupting(SilentObserver):
        def round_ended(self, record: RoundRecord) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds(runtime(shared), tmp_path, observer=Interrupting())

    resumed = rounds(runtime(shared), tmp_path)

    whole = rounds(in_process())
    assert resumed.adapter == whole.adapter
    assert without_time(resumed.records) == without_time(whole.records)


def test_scores_come_back_too(shared: Gated) -> None:
    requests = dict.fromkeys(SOUND, Score({"a": random_adapter(0), "b": random_adapter(1)}))

    found = sorted(runtime(shared).call(requests), key=lambda reply: reply.site)

    assert found == list(in_process().call(requests))


def test_the_worker_is_told_the_arm(shared: Gated) -> None:
    [reply] = runtime(shared, arm="uniform").call({"east": REQUEST})

    # The site opened there has another name than the one that was asked.
    assert reply == SiteFailure("east", "wrong-site")


def test_two_sites_are_asked_at_a_time_and_replies_come_as_they_are_ready(
    shared: Gated,
) -> None:
    let_both_start(shared)
    asked: dict[str, int] = {}

    def tell(site: str, news) -> None:
        asked[site] = news["process"]
        assert news["threads"] == 1

    replies = shared.slow_last(runtime(shared, tell=tell), ["slow", "up"])

    assert [reply.site for reply in replies] == ["up", "slow"]
    assert set(asked.values()) == set(shared.process_ids.values())
    assert len(set(asked.values())) == 2
    assert os.getpid() not in asked.values()


def test_a_site_that_is_not_there_is_a_mistake_of_the_caller(shared: Gated) -> None:
    with pytest.raises(ConfigError, match=r"no site named down.*east"):
        list(runtime(shared).call({"down": REQUEST}))


def test_no_request_is_no_reply(shared: Gated) -> None:
    assert list(runtime(shared).call({})) == []


# Failures ------------------------------------------------------------------------------------


def test_an_exception_at_a_site_leaves_it_as_a_code_and_no_text(
    shared: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    replies = list(runtime(shared).call(dict.fromkeys(["failing", "greedy", "up"], REQUEST)))

    codes = {reply.site: reply.code for reply in replies if isinstance(reply, SiteFailure)}
    assert codes == {"failing": "error", "greedy": "out-of-memory"}
    assert "site failing: ValueError at odd_sites.py" in caplog.text
    assert "Canary" not in caplog.text


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux tells")
def test_workers_ask_for_large_pages_unless_their_user_set_that(
    shared: Gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(workers: Gated) -> set[bytes]:
        return {
            setting
            for process in workers.process_ids.values()
            for setting in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            if setting.startswith(b"GLIBC_TUNABLES=")
        }

    let_both_start(shared)
    set_outside = os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert told(shared) == {f"GLIBC_TUNABLES={set_outside}".encode()}

    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    with Gated(1, tmp_path / "open") as workers:
        assert len(list(workers.slow_last(runtime(workers), ["up"]))) == 1
        assert told(workers) == {b"GLIBC_TUNABLES=glibc.malloc.arena_max=2"}


def test_a_site_whose_process_dies_is_lost_and_the_process_replaced(
    shared: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    let_both_start(shared)
    before = set(shared.process_ids.values())
    carrier = runtime(shared)

    replies = {r.site: r for r in carrier.call(dict.fromkeys(["dying", *SOUND], REQUEST))}

    assert replies.pop("dying") == SiteFailure("dying", "lost")
    assert "site dying: its process ended in mid-work (code -9)" in caplog.text
    assert all(isinstance(reply, SiteUpdate) for reply in replies.values())
    assert replies.keys() == set(SOUND)
    assert "dying" in carrier.traffic.down
    assert "dying" not in carrier.traffic.up
    gone = before - set(shared.process_ids.values())
    assert len(gone) == 1
    assert all(is_gone(process) for process in gone)


def test_a_site_that_hangs_is_late_and_the_others_are_not(shared: Gated, clock: Clock) -> None:
    let_both_start(shared)

    requests = dict.fromkeys(["hanging", *SOUND], REQUEST)
    replies = {}
    for reply in runtime(shared).call(requests, deadline_seconds=0.1):
        replies[reply.site] = reply
        clock.now += 0.2 if len(replies) == len(SOUND) else 0

    assert replies.pop("hanging") == SiteFailure("hanging", "late")
    assert all(isinstance(reply, SiteUpdate) for reply in replies.values())
    assert replies.keys() == set(SOUND)


def test_the_deadline_is_of_each_site_not_of_the_queue(clock: Clock) -> None:
    replies = []
    with Workers([command()]) as alone:
        for reply in runtime(alone).call(dict.fromkeys(SOUND, REQUEST), deadline_seconds=1.0):
            replies.append(reply)
            clock.now += 0.6

    assert [reply.site for reply in replies] == SOUND
    assert all(isinstance(reply, SiteUpdate) for reply in replies)
    assert clock.now > 1.0


def test_a_process_that_no_longer_reads_is_late_and_stops_nobody(shared: Gated) -> None:
    shapes = {"model.layers.0.self_attn.q_proj": (4096, 4096)}
    large = Train(LocalPlan(1), random_adapter(0, rank=64, shapes=shapes))  # more than a pipe holds
    let_both_start(shared)
    for process in shared.process_ids.values():
        os.kill(process, signal.SIGSTOP)

    replies = list(runtime(shared).call(dict.fromkeys(["east", "up"], large), deadline_seconds=0.1))

    assert sorted((r.site, r.code) for r in replies) == [("east", "late"), ("up", "late")]
    assert isinstance(next(runtime(shared).call({"up": REQUEST})), SiteUpdate)


def test_a_round_goes_on_without_a_lost_site_where_that_is_allowed(shared: Gated) -> None:
    sites = ["dying", *SOUND]

    outcome = rounds(runtime(shared), sites=sites, num_rounds=1, min_sites=len(SOUND))

    [record] = outcome.records
    assert record.failed == {"dying": "lost"}
    assert record.sites == tuple(SOUND)
    assert outcome.adapter == rounds(in_process(), num_rounds=1).adapter
    with pytest.raises(AggregationError, match=r"dying \(lost\)"):
        rounds(runtime(shared), sites=sites, num_rounds=1)


def test_a_worker_that_was_killed_while_idle_costs_no_site(shared: Gated) -> None:
    let_both_start(shared)
    for process in shared.process_ids.values():
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)

    replies = list(runtime(shared).call(dict.fromkeys(["east", "up"], REQUEST)))

    assert all(isinstance(reply, SiteUpdate) for reply in replies)


def test_replies_of_a_call_that_was_given_up_do_not_reach_the_next(shared: Gated) -> None:
    let_both_start(shared)
    shared.gate.unlink()
    first = runtime(shared).call(dict.fromkeys(["up", "slow", "east"], REQUEST))
    next(first)
    first.close()
    shared.gate.touch()

    later = Train(LocalPlan(2, seed=6), random_adapter(1))
    replies = list(runtime(shared).call(dict.fromkeys(["slow", "east"], later)))

    assert {reply.site: reply.round_index for reply in replies} == {"slow": 2, "east": 2}


def test_a_call_within_a_call_is_refused(shared: Gated) -> None:
    outer = shared.slow_last(runtime(shared), ["up", "slow"])
    next(outer)
    with pytest.raises(RuntimeError, match="one call at a time"):
        next(runtime(shared).call({"east": REQUEST}))
    assert [reply.site for reply in outer] == ["slow"]


@pytest.mark.parametrize(
    ("way", "told"),
    [
        (
            "faulty",
            r"worker 1 of 1: base: no such file\. If memory is short, free some",
        ),
        ("unreadable", r"worker 1 of 1: ValueError at odd_sites\.py:\d+\. "),
        ("mute", r"ended before it was ready \(code 3\)"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_call_and_says_why(way: str, told: str) -> None:
    with Workers([command(way)]) as workers:
        with pytest.raises(FedMedLoRAError, match=told) as raised:
            list(runtime(workers).call({"east": REQUEST}))
        assert "Canary" not in str(raised.value)
        assert workers.process_ids == {}


# The end -------------------------------------------------------------------------------------


def test_workers_are_gone_once_they_are_closed() -> None:
    with Workers([command()]) as workers:
        list(runtime(workers).call({"east": REQUEST}))
        [process] = workers.process_ids.values()
        assert not is_gone(process)
    assert is_gone(process)


PARENT = f"""
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from fedmedlora.adapters.exchange import LocalPlan, Train
from fedmedlora.federation.processes import ProcessRuntime
from fedmedlora.federation.workers import WorkerCommand, Workers
from fedmedlora.testing.adapters import random_adapter

workers = Workers([WorkerCommand((sys.executable, {SCRIPT!r}, "sound"))])
carrier = ProcessRuntime(
    workers, ["hanging"], tell=lambda site, news: print(news["process"], flush=True)
)
list(carrier.call({{"hanging": Train(LocalPlan(1), random_adapter(0))}}))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_workers_end_with_the_process_that_started_them(ending: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with parent:
        worker = int(parent.stdout.readline())
        assert not is_gone(worker)
        os.killpg(parent.pid, ending)  # as a terminal does
        told = parent.stderr.read()
    wait_until(lambda: has_ended(worker))
    assert parent.returncode == -ending
    assert told.count("Traceback") == (ending is signal.SIGINT)
