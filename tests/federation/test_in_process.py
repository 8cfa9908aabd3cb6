import logging
from dataclasses import replace

import pytest
import torch

from fedmedlora.adapters.codec import BF16, FP32
from fedmedlora.adapters.exchange import (
    LocalPlan,
    Reply,
    Request,
    Score,
    SiteFailure,
    SiteScores,
    SiteUpdate,
    Train,
    decode,
    encode,
)
from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.federation.in_process import InProcessRuntime
from fedmedlora.testing.adapters import DriftingSite, random_adapter

REQUEST = Train(LocalPlan(1, seed=5), random_adapter(0))
CANARY = "Mrs Canary, 83, has a rash"


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def handle(self, request: Request) -> Reply:
        raise self.error


class Answering:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def handle(self, request: Request) -> Reply:
        return self.answer


class Recording:
    def __init__(self) -> None:
        self.seen: list[Request] = []

    def handle(self, request: Request) -> Reply:
        self.seen.append(request)
        return SiteUpdate("north", 1, request.adapter, {}, 0)


def reply_of(site: object) -> Reply:
    [reply] = InProcessRuntime({"north": site}).call({"north": REQUEST})
    return reply


@pytest.mark.parametrize("codec", [FP32, BF16], ids=["fp32", "bf16"])
def test_what_a_site_gets_and_gives_went_through_the_codec(codec) -> None:
    site = Recording()
    [reply] = InProcessRuntime({"north": site}, codec).call({"north": REQUEST})
    sent = decode(encode(REQUEST, codec))
    assert site.seen[0].adapter == sent.adapter == reply.adapter
    assert site.seen[0].adapter is not REQUEST.adapter
    assert (sent.adapter == REQUEST.adapter) == (codec is FP32)


def test_a_site_cannot_change_the_servers_adapter() -> None:
    class Greedy:
        def handle(self, request: Request) -> Reply:
            for _, _, tensor in request.adapter.tensors():
                tensor.zero_()
            return SiteUpdate("north", 1, request.adapter, {}, 0)

    before = REQUEST.adapter.digest()
    reply_of(Greedy())
    assert REQUEST.adapter.digest() == before


def test_every_byte_is_counted_and_shown_to_the_tap() -> None:
    seen: list[tuple[str, str, bytes]] = []
    runtime = InProcessRuntime(
        {"north": DriftingSite("north"), "south": Raising(ValueError())},
        FP32,
        tap=lambda *event: seen.append(event),
    )
    replies = list(runtime.call({"south": REQUEST, "north": REQUEST}))
    assert [(direction, site) for direction, site, _ in seen] == [
        ("down", "south"),
        ("up", "south"),
        ("down", "north"),
        ("up", "north"),
    ]
    assert [type(decode(data)) for *_, data in seen] == [Train, SiteFailure, Train, SiteUpdate]
    assert runtime.traffic.down == {s: len(encode(REQUEST, FP32)) for s in ("north", "south")}
    assert runtime.traffic.up == {"south": len(seen[1][2]), "north": len(seen[3][2])}
    assert [reply.site for reply in replies] == ["south", "north"]
    before = runtime.traffic.copy()
    list(runtime.call({"north": REQUEST}))
    assert runtime.traffic.since(before).down == {"north": len(encode(REQUEST, FP32))}


def test_scores_come_back_too() -> None:
    [reply] = InProcessRuntime({"north": DriftingSite("north")}).call(
        {"north": Score({"a": random_adapter(0)})}
    )
    assert reply == SiteScores("north", {"a": {"entities": 0.0}}, {"a": {"entities": 0.0}})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(CANARY), "error"),
        (CorpusError("note 7: bad offset"), "error"),
        (MemoryError(CANARY), "out-of-memory"),
        (torch.OutOfMemoryError(CANARY), "out-of-memory"),
    ],
)
def test_an_exception_at_a_site_leaves_it_as_a_code(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bytes] = []
    runtime = InProcessRuntime({"north": Raising(error)}, tap=lambda *e: seen.append(e[2]))
    with caplog.at_level(logging.DEBUG):
        assert list(runtime.call({"north": REQUEST})) == [SiteFailure("north", code)]
    assert "Canary" not in caplog.text
    assert not any(b"Canary" in data for data in seen)
    assert "north" in caplog.text  # the site's own log says where it went wrong
    assert type(error).__name__ in caplog.text or "note 7: bad offset" in caplog.text


def test_ctrl_c_and_exit_pass_through() -> None:
    for error in (KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(error)):
            reply_of(Raising(error))


@pytest.mark.parametrize("answer", [None, "text", {"site": "north"}, random_adapter(0)])
def test_an_answer_that_is_no_message_does_not_leave(answer: object) -> None:
    assert reply_of(Answering(answer)) == SiteFailure("north", "error")


def test_a_request_as_an_answer_and_a_foreign_name_are_refused() -> None:
    assert reply_of(Answering(REQUEST)) == SiteFailure("north", "bad-reply")
    other = SiteUpdate("south", 1, random_adapter(0), {}, 0)
    assert reply_of(Answering(other)) == SiteFailure("north", "wrong-site")


def test_an_unreadable_reply_is_a_failure_of_that_site() -> None:
    class Damaging(InProcessRuntime):
        def _at_site(self, site: str, data: bytes) -> bytes:
            return super()._at_site(site, data)[:-1]

    [reply] = Damaging({"north": DriftingSite("north")}).call({"north": REQUEST})
    assert reply == SiteFailure("north", "bad-reply")


def test_an_unreadable_request_is_a_failure_of_that_site() -> None:
    class Misdirecting(InProcessRuntime):
        def _at_site(self, site: str, data: bytes) -> bytes:
            return super()._at_site(site, encode(SiteFailure(site, "late")))

    [reply] = Misdirecting({"north": DriftingSite("north")}).call({"north": REQUEST})
    assert reply == SiteFailure("north", "bad-request")


def test_a_site_that_is_not_there_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ConfigError, match=r"no site named east.*north"):
        list(InProcessRuntime({"north": DriftingSite("north")}).call({"east": REQUEST}))


def test_only_shared_factors_leave_a_site() -> None:
    seen: list[bytes] = []
    runtime = InProcessRuntime({"north": DriftingSite("north")}, tap=lambda *e: seen.append(e[2]))
    request = replace(REQUEST, plan=replace(REQUEST.plan, share_factors=frozenset("B")))
    list(runtime.call({"north": request}))
    returned = decode(seen[1])
    assert isinstance(returned, SiteUpdate)
    assert returned.adapter.factors == {"B"}
