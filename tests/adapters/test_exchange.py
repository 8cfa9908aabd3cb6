import contextlib
import json
import math
import zlib
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.adapters.codec import BF16, FP32
from fedmedlora.adapters.exchange import (
    FAILURE_CODES,
    LocalPlan,
    Message,
    Score,
    SiteFailure,
    SiteScores,
    SiteUpdate,
    TaskMetrics,
    Train,
    decode,
    encode,
)
from fedmedlora.adapters.wire import from_bytes, to_bytes
from fedmedlora.core.errors import ExchangeError, FedMedLoRAError
from fedmedlora.federation.in_process import read_reply
from fedmedlora.testing.adapters import random_adapter, site_update

PLAN = LocalPlan(
    round_index=3,
    train_factors=frozenset("B"),
    share_factors=frozenset("B"),
    proximal_mu=0.1,
    learning_rate=2e-4,
    epochs=1.5,
    tasks=("entities", "relations"),
    seed=2**63 - 1,
    extras={"control": torch.arange(3.0), "level": 2, "kind": "ridge", "on": True},
)
UPDATE = replace(
    site_update("north", random_adapter(1), round_index=3, num_completion_tokens=70),
    extras={"variance": torch.ones(2, 3, dtype=torch.float64)},
    elapsed_seconds=1.25,
)
MESSAGES: list[Message] = [
    Train(PLAN, random_adapter(0)),
    Train(LocalPlan(1, steps=4), random_adapter(0).only({"B"})),
    Score({"a": random_adapter(0), "b": random_adapter(0)}, ("relations",), max_tokens=9),
    UPDATE,
    SiteScores("north", {"a": {"entities": 0.5}}, {"a": {"entities": 0.01}}),
    SiteFailure("north", "late"),
]
IDS = [type(message).__name__ + str(i) for i, message in enumerate(MESSAGES)]


def same(first: object, second: object) -> bool:
    """Whether two messages hold equal values, tensors bit by bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, Message):
        return type(first) is type(second) and all(
            same(getattr(first, f.name), getattr(second, f.name)) for f in fields(first)
        )
    if isinstance(first, LocalPlan):
        return all(same(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    return first == second


@pytest.mark.parametrize("message", MESSAGES, ids=IDS)
def test_every_message_survives_the_wire_and_the_bytes(message: Message) -> None:
    assert same(type(message).from_wire(message.to_wire()), message)
    assert same(decode(encode(message, FP32)), message)
    assert encode(decode(encode(message, FP32)), FP32) == encode(message, FP32)


@pytest.mark.parametrize("message", MESSAGES, ids=IDS)
def test_unknown_and_missing_fields_are_refused(message: Message) -> None:
    wire = message.to_wire()
    for name in wire:
        with pytest.raises(ExchangeError, match="missing"):
            type(message).from_wire({k: v for k, v in wire.items() if k != name})
    with pytest.raises(ExchangeError, match="1 unknown"):
        type(message).from_wire(wire | {"note": "text"})


@pytest.mark.parametrize("path", [("plan",), ("adapter",), ("adapter", "spec")])
def test_unknown_and_missing_fields_are_refused_inside_too(path: tuple[str, ...]) -> None:
    for breaking in ("add", "remove"):
        wire = Train(PLAN, random_adapter(0)).to_wire()
        inner = wire
        for key in path:
            inner = inner[key]
        if breaking == "add":
            inner["more"] = 1
        else:
            inner.pop(next(iter(inner)))
        with pytest.raises(ExchangeError):
            Train.from_wire(wire)


def test_metrics_with_an_unknown_field_are_refused() -> None:
    wire = UPDATE.to_wire()
    wire["metrics"]["entities"]["first_note"] = "text"
    with pytest.raises(ExchangeError, match="1 unknown"):
        SiteUpdate.from_wire(wire)


def _wrong(value: object) -> list[object]:
    """Values of other types than this one."""
    others = ["x y", 1.5, -1, True, None, [1], {"a b": 1}, torch.zeros(1)]
    return [other for other in others if type(other) is not type(value)]


@pytest.mark.parametrize("message", MESSAGES, ids=IDS)
def test_a_field_of_another_type_is_refused_or_reads_back_equal(message: Message) -> None:
    """None for an optional number, or a whole number for a float, is a value; the rest is not."""
    num_refused = 0
    for name, value in message.to_wire().items():
        for wrong in _wrong(value):
            try:
                read = type(message).from_wire(message.to_wire() | {name: wrong})
            except FedMedLoRAError:
                num_refused += 1
            else:
                assert getattr(read, name) == wrong
    assert num_refused >= 5 * len(message.to_wire()) - 5


def test_bf16_halves_the_payload_and_gives_the_nearest_numbers_back() -> None:
    shapes = {f"layers.{i}.q_proj": (96, 64) for i in range(4)}
    adapter = random_adapter(0, rank=8, shapes=shapes)
    message = SiteUpdate("north", 1, adapter, {}, num_steps=0)
    small, large = encode(message, BF16), encode(message, FP32)
    assert len(large) - len(small) == 2 * adapter.num_parameters
    back = decode(small)
    assert isinstance(back, SiteUpdate)
    assert back.adapter.spec == adapter.spec  # float32 at both ends
    for name, pair in adapter.pairs.items():
        assert torch.equal(back.adapter.pairs[name].A, pair.A.bfloat16().float())
    assert encode(back, BF16) == small


def test_a_factor_that_is_not_shared_costs_no_bytes() -> None:
    adapter = random_adapter(0, rank=8, shapes={"q_proj": (96, 64)})
    both = encode(SiteUpdate("n", 1, adapter, {}, 0), FP32)
    only_b = encode(SiteUpdate("n", 1, adapter.only({"B"}), {}, 0), FP32)
    assert len(both) - len(only_b) == pytest.approx(4 * 8 * 64, abs=16)


def test_the_size_of_an_update_does_not_depend_on_how_long_it_took() -> None:
    sizes = {len(encode(replace(UPDATE, elapsed_seconds=s))) for s in (0.0, 1.25, 1 / 3, 4e5 / 7)}

    assert len(sizes) == 1


def test_a_diverged_site_can_say_so() -> None:
    metrics = TaskMetrics(1, 1, 1, 1, train_loss=math.nan, validation_loss=None)
    back = decode(encode(replace(UPDATE, metrics={"entities": metrics})))
    assert isinstance(back, SiteUpdate)
    assert math.isnan(back.metrics["entities"].train_loss)
    assert back.metrics["entities"].validation_loss is None


@pytest.mark.parametrize(
    "build",
    [
        lambda: SiteFailure("north", "CUDA error at note 7"),
        lambda: SiteFailure("a site with blanks", "error"),
        lambda: replace(UPDATE, site=""),
        lambda: replace(UPDATE, extras={"Mr Smith has": torch.zeros(1)}),
        lambda: replace(UPDATE, metrics={"Mr Smith has": None}),
        lambda: SiteScores("north", {"Mr Smith has": {}}, {}),
        lambda: SiteScores("north", {"a": {"Mr Smith has": 1.0}}, {}),
    ],
)
def test_text_has_no_place_to_go_in_a_reply(build) -> None:
    with pytest.raises(ExchangeError) as error:
        build()
    assert "Smith" not in str(error.value)
    assert "note 7" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 1.0, "steps": 1},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"proximal_mu": math.inf},
        {"tasks": ()},
        {"train_factors": frozenset()},
    ],
)
def test_an_impossible_plan_is_refused(change: dict) -> None:
    with pytest.raises(ExchangeError):
        LocalPlan(1, **change)


@pytest.mark.parametrize("message", MESSAGES, ids=IDS)
def test_a_cut_off_message_is_refused(message: Message) -> None:
    data = encode(message)
    for length in {*range(0, len(data), 1 + len(data) // 50), len(data) - 1}:
        with pytest.raises(ExchangeError):
            decode(data[:length])
    with pytest.raises(ExchangeError):
        decode(data + b"\0")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_noticed(data: st.DataObject) -> None:
    message = bytearray(encode(data.draw(st.sampled_from(MESSAGES))))
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ExchangeError):
        decode(bytes(message))


def _with_checksum(body: bytes) -> bytes:
    return b"FML1" + zlib.crc32(body).to_bytes(4, "little") + body


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_forged_message_with_a_right_checksum_raises_our_errors_only(data: st.DataObject) -> None:
    body = bytearray(encode(data.draw(st.sampled_from(MESSAGES)))[8:])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FedMedLoRAError):
        decode(_with_checksum(bytes(body)))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_forged_field_raises_our_errors_only(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(MESSAGES))
    wire = message.to_wire()
    target = wire
    while True:
        key = data.draw(st.sampled_from(sorted(target)))
        if not isinstance(target[key], dict) or not target[key] or data.draw(st.booleans()):
            break
        target = target[key]
    target[key] = data.draw(json_values)
    with contextlib.suppress(FedMedLoRAError):
        type(message).from_wire(wire)


@pytest.mark.parametrize("number", [2**64, 10**400, -1])
def test_a_count_that_no_site_can_have_is_refused(number: int) -> None:
    metrics = replace(UPDATE.metrics["entities"], num_completion_tokens=number)
    forged = replace(UPDATE, metrics={"entities": metrics})
    with pytest.raises(ExchangeError, match="num_completion_tokens: expected an integer >= 0"):
        decode(encode(forged))


def test_a_loss_beyond_all_floats_is_refused_and_ends_no_round() -> None:
    boast = replace(UPDATE.metrics["entities"], train_loss=-(10**400))
    votes = SiteScores("north", {"a": {"entities": 10**400}}, {"a": {"entities": 0.0}})
    for forged in (replace(UPDATE, metrics={"entities": boast}), votes):
        assert read_reply("north", encode(forged)) == SiteFailure("north", "bad-reply")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(ExchangeError):
        decode(data)
    with pytest.raises(ExchangeError):
        decode(_with_checksum(data))


def test_only_wire_values_become_bytes() -> None:
    for value in ({"a": object()}, {"a": (1, 2)}, {1: 2}, {"$tensor": "0"}, {"a": b"x"}):
        with pytest.raises(ExchangeError):
            to_bytes(value)


def test_a_frame_says_nothing_beside_its_header_and_tensors() -> None:
    wire = SiteFailure("north", "late").to_wire()
    data = to_bytes(wire)
    length = int.from_bytes(data[8:16], "little")
    assert json.loads(data[16 : 16 + length]) == wire
    assert from_bytes(data) == wire


def test_failure_codes_are_identifiers() -> None:
    assert all(code.replace("-", "").isalpha() for code in FAILURE_CODES)
