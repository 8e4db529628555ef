"""One process of several that ask the same limits: `python -m tests.ratelimit.hitting URL PREFIX STRATEGY LIMIT HITS`.

With a sixth argument it takes so many units on lease. Prints how many were admitted, and the first and last moment of
asking (seconds).
"""

from __future__ import annotations

import asyncio
import sys
import time

from smriti_scale.ratelimit import LeasePolicy, RateLimiter, client_address
from tests.ratelimit.checks import STRATEGIES, check


async def main(url: str, prefix: str, strategy: str, limit: str, hits: int, lease: int = 0) -> None:
    limiter = RateLimiter(
        client_address(),
        storage_uri=url,
        key_prefix=prefix,
        redis_timeout=5.0,
        leases=LeasePolicy(size=lease, share=1.0, ttl=0.5) if lease else None,
    )
    (known,) = (name for name in STRATEGIES if name == strategy)
    asked = (check(limit, known),)
    began = time.time()
    admitted = 0
    for _ in range(0, hits, 20):
        answers = await asyncio.gather(*(limiter._engine.decide(asked, None) for _ in range(20)))
        admitted += sum(answer.allowed for answer in answers)
    ended = time.time()
    await limiter.aclose()
    sys.stdout.write(f"{admitted} {began} {ended}\n")


if __name__ == "__main__":
    url, prefix, strategy, limit, *numbers = sys.argv[1:]
    asyncio.run(main(url, prefix, strategy, limit, *map(int, numbers)))
