"""Background tasks: published without blocking, run once for each key, kept when they fail.

Run a Redis (`smriti-scale dev`), then this file. It starts a worker of its own for a moment.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from pathlib import Path

from smriti_scale.tasks import TaskPolicy, idempotent, make_celery, publish

RUN = os.environ.setdefault("EXAMPLE_RUN", uuid.uuid4().hex)
app = make_celery(
    "minimal",
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    policy=TaskPolicy(max_retries=1, retry_backoff=0.1),
    key_prefix=f"example:{RUN}:",
)


@app.task(name="greet")
@idempotent("greet:{name}", ttl=60)
async def greet(name: str) -> None:
    """Greets each name once, however often it is asked to."""
    await asyncio.sleep(0.01)
    Path(os.environ["EXAMPLE_OUTPUT"]).open("a").write(f"Hello, {name}\n")  # noqa: ASYNC230, SIM115


@app.task(name="fail")
async def fail() -> None:
    """Fails however often it is tried."""
    raise RuntimeError("as always")


async def main() -> None:
    """Publish, and wait until the work is done."""
    for name in ("Ada", "Grace", "Ada"):
        await publish(greet, name)
    await publish(fail)
    for _ in range(600):
        if await app.dead_letters.count() and len(greetings()) == 2:
            break
        await asyncio.sleep(0.1)
    print(*sorted(greetings()), sep="\n")
    for letter in await app.dead_letters.newest():
        print(f"dead: {letter.task} ({letter.error}, {letter.retries} retries)")
        await app.dead_letters.purge(letter)
    await app.aclose()


def greetings() -> list[str]:
    """What the worker has written so far."""
    output = Path(os.environ["EXAMPLE_OUTPUT"])
    return output.read_text().splitlines() if output.exists() else []


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.environ["EXAMPLE_OUTPUT"] = str(Path(folder) / "greetings")
        worker = subprocess.Popen(  # noqa: S603 - this very file
            [
                *(sys.executable, "-m", "celery", "--app", f"{Path(__file__).stem}:app", "--quiet"),
                *("--workdir", str(Path(__file__).parent), "worker", "--concurrency", "2", "--loglevel", "critical"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            asyncio.run(main())
        finally:
            worker.terminate()
            worker.wait()
