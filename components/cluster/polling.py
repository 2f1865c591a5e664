"""Looks again and again until something is so."""

import asyncio
from collections.abc import Awaitable, Callable


async def poll(look: Callable[[], Awaitable[str]], patience: float, interval: float) -> str:
    """Look every `interval` seconds, for `patience` seconds, until nothing is missing.

    Returns what was still missing at the last look; empty: nothing.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    while (missing := await look()) and clock() < deadline:  # noqa: ASYNC110 -- waits for time
        await asyncio.sleep(interval)
    return missing
