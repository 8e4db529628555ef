"""One process of several that ask the same limits: `python -m tests.ratelimit.hitting URL PREFIX STRATEGY LIMIT HITS`.

Prints how many were admitted, and the first and last moment of asking (seconds).
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.ratelimit.checks import STRATEGIES, check, redis_store


async def main(url: str, prefix: str, strategy: str, limit: str, hits: int) -> None:
    store = redis_store(url, prefix)
    (known,) = (name for name in STRATEGIES if name == strategy)
    asked = check(limit, known)
    began = time.time()
    admitted = 0
    for _ in range(0, hits, 20):
        answers = await asyncio.gather(*(store.decide([asked]) for _ in range(20)))
        admitted += sum(answer.allowed for answer in answers)
    sys.stdout.write(f"{admitted} {began} {time.time()}\n")
    await store.link.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])))
