"""Every Python and shell block of README and docs runs, page by page, as a reader would type it.

Python blocks of a page share one namespace and may `await`; `mongo_uri`, `redis_url` and `db` are predefined,
`MONGODB_URI`, `REDIS_URL` and `DATABASE_NAME` are set, and each page gets a database of its own. A block marked
`no-run` in its info string needs what a test machine lacks (Docker, a hosted service); its page says which. Shell
blocks run in an empty folder with the environment's commands.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorDatabase

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]+)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
RUNNABLE = {"python", "shell"}


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        language, *marks = match["info"].split()
        if language in RUNNABLE and "no-run" not in marks:
            width = len(match["indent"])
            code = "".join(line[width:] for line in match["body"].splitlines(keepends=True))
            found.append(Block(language, code, text.count("\n", 0, match.start()) + 1))
    return found


PAGES = {
    str(page.relative_to(ROOT)): blocks
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if (blocks := blocks_of(page))
}


@pytest.mark.parametrize("name", PAGES)
async def test_the_blocks_of_the_page_run(
    name: str,
    mongo_uri: str,
    redis_url: str,
    motor_db: AsyncIOMotorDatabase[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONGODB_URI", mongo_uri)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_NAME", motor_db.name)
    for deadline in ("SCALE_CACHE_TIMEOUT", "SCALE_RATE_LIMIT_TIMEOUT"):
        monkeypatch.setenv(deadline, "5")  # a busy test machine is no reason to go without Redis
    page = ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, "docs_page", page)
    page.__dict__.update(mongo_uri=mongo_uri, redis_url=redis_url, db=motor_db)
    for block in PAGES[name]:
        if block.language == "shell":
            run_shell(block, name)
            continue
        padded = "\n" * block.line + block.code  # so that a traceback names the page's own line
        code = compile(padded, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(code, page.__dict__)
        if inspect.isawaitable(outcome):
            await outcome


def run_shell(block: Block, page: str) -> None:
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        env={**os.environ, "PATH": commands},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, f"{page}:{block.line} exits {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
