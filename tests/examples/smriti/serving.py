"""The service over real HTTP, in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

from httpx import AsyncClient, HTTPError
from pydantic import SecretStr

from examples.smriti.settings import SmritiSettings

_NAMES = {
    "mongodb_uri": "MONGODB_URI",
    "redis_url": "REDIS_URL",
    "database_name": "DATABASE_NAME",
    "environment": "ENVIRONMENT",
    "storage_folder": "STORAGE_FOLDER",
    "signup_limit": "SIGNUP_LIMIT",
    "login_limit": "LOGIN_LIMIT",
    "post_limit": "POST_LIMIT",
    "user_limit": "USER_LIMIT",
    "bcrypt_rounds": "BCRYPT_ROUNDS",
    "namespace": "SCALE_NAMESPACE",
    "indexes": "SCALE_INDEXES",
    "cache_timeout": "SCALE_CACHE_TIMEOUT",
    "rate_limit_timeout": "SCALE_RATE_LIMIT_TIMEOUT",
    "min_pool_size": "SCALE_MIN_POOL_SIZE",
    "cron_secret": "CRON_SECRET",
    "primitives": "PRIMITIVES",
}


def environment_of(settings: SmritiSettings) -> dict[str, str]:
    """The variables that give a process these settings."""
    values = {variable: getattr(settings, name) for name, variable in _NAMES.items()}
    return {
        variable: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for variable, value in values.items()
        if value is not None
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def served(settings: SmritiSettings) -> AsyncIterator[str]:
    """One instance under uvicorn; yields its address once it is ready."""
    async with started(settings) as (base, _):
        yield base


@contextlib.asynccontextmanager
async def started(settings: SmritiSettings) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The same, with its process."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "--factory", "examples.smriti.app:create_app"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "--no-access-log"),
        env={**os.environ, **environment_of(settings), "PUBLIC_URL": base},
    )
    try:
        async with AsyncClient(base_url=base) as client:
            for _ in range(600):
                assert process.returncode is None, "the service ended at once"
                with contextlib.suppress(HTTPError):
                    if (await client.get("/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("the service was not ready within a minute")
        yield base, process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()
