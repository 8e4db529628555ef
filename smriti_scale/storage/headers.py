"""The header by which a download gets its name: pure."""

from __future__ import annotations

import re
from urllib.parse import quote


def disposition(name: str) -> str:
    """`Content-Disposition` for a download under `name`, which may be anything (RFC 6266, RFC 8187).

    The name loses folders and control characters, so that nothing can be smuggled into the header or the path.
    """
    name = name.encode("utf-8", "replace").decode()  # JSON can smuggle in half a character
    name = re.sub(r"[\x00-\x1f\x7f]", "", name.replace("\\", "/").rpartition("/")[2]).strip(". ")[:200] or "download"
    plain = re.sub(r'[^\x20-\x7e]|["\\%;]', "_", name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
