"""What the documentation build does besides: takes the test suite's `no-run` mark out of the code fences."""

from __future__ import annotations

import re
from typing import Any

_MARK = re.compile(r"^( *```\w+) no-run$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _MARK.sub(r"\1", markdown)
