"""Where the time of a run goes: seconds by part, each without the parts inside it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Place = tuple[Any, str]


@contextmanager
def timed_parts(parts: Mapping[str, Sequence[Place]]) -> Iterator[dict[str, float]]:
    """Seconds by part while this is open; `parts` are functions by where their callers look.

    A function that calls another one of them is not charged for it.
    """
    seconds = dict.fromkeys(parts, 0.0)
    stack: list[str] = []
    last = time.perf_counter()

    def charge() -> None:
        """To the part that has run until now."""
        nonlocal last
        now = time.perf_counter()
        if stack:
            seconds[stack[-1]] += now - last
        last = now

    def watched(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            charge()
            stack.append(part)
            try:
                return function(*arguments, **named)
            finally:
                charge()
                stack.pop()

        return wrapper

    before = [
        (owner, name, getattr(owner, name)) for places in parts.values() for owner, name in places
    ]
    try:
        for part, places in parts.items():
            for owner, name in places:
                setattr(owner, name, watched(part, getattr(owner, name)))
        yield seconds
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
