"""Polling: it ends with the first look that misses nothing, or after its patience."""

import asyncio
from collections.abc import Awaitable, Callable

from components.cluster.polling import poll


def looks(*missing: str) -> tuple[Callable[[], Awaitable[str]], list[str]]:
    """Looks with these results, the last of them for ever; and what was seen."""
    seen: list[str] = []

    async def look() -> str:
        seen.append(missing[min(len(seen), len(missing) - 1)])
        return seen[-1]

    return look, seen


def test_it_ends_when_nothing_is_missing() -> None:
    look, seen = looks("two", "one", "")
    assert asyncio.run(poll(look, patience=5, interval=0)) == ""
    assert seen == ["two", "one", ""]


def test_the_end_of_patience_returns_what_was_missing_last() -> None:
    look, seen = looks("two", "one")
    assert asyncio.run(poll(look, patience=0.05, interval=0.001)) == "one"
    assert len(seen) > 2


def test_without_patience_it_looks_once() -> None:
    look, seen = looks("two", "one", "")
    assert asyncio.run(poll(look, patience=0, interval=0)) == "two"
    assert seen == ["two"]
