"""Static files made ready to serve: names with a hash of the content, coded variants beside them, and a manifest.

`build_assets("static", "dist")` writes for each `css/app.css` a `css/app.1f0c….css` that browsers and CDNs may keep
for good, each with `.br`, `.zst` and `.gz` where that is smaller, and `manifest.json`, which maps the names.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from mimetypes import guess_type
from pathlib import Path, PurePosixPath

from smriti_scale.compression.coders import ENCODINGS, make_coders
from smriti_scale.compression.representation import is_compressed_media
from smriti_scale.errors import ConfigurationError

MANIFEST = "manifest.json"
SUFFIXES = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""The suffix of each coding's variant, the smallest first."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Asset:
    """One built file.

    Attributes:
        path: the hashed name, relative to the folder, with `/`.
        digest: hex of the content's hash; the entity tag is made of it.
        integrity: for a `<script integrity="…">` (Subresource Integrity, SHA-384).
        size: bytes of the plain file.
        encodings: the bytes of each coded variant, by coding.
    """

    path: str
    digest: str
    integrity: str
    size: int
    encodings: dict[str, int]


Manifest = dict[str, Asset]
"""Built files by their original name."""


def build_assets(
    source: str | Path,
    target: str | Path,
    *,
    encodings: Iterable[str] | None = None,
    minimum_size: int = 500,
    progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Build every file under `source` into `target`. Run it when deploying: it codes at the highest levels.

    Files of an earlier build stay, so that pages served a moment ago still find theirs. Each file also keeps its
    own name, for what refers to it from within (a `url(…)` in CSS); that name is served with `no-cache`. What has
    not changed is not coded again. The manifest is replaced last and at once.

    Args:
        source: the folder with the files; names that begin with a dot are left out.
        target: the folder to fill; not the source, nor inside it.
        encodings: the variants to make; None for all whose package is installed.
        minimum_size: bytes from which variants are made.
        progress: called after each file with its name, how many are done, and how many there are.

    Returns:
        The manifest.

    Raises:
        ConfigurationError: the folders do not fit, or an unknown encoding.
        MissingExtraError: an encoding is named whose package is not installed.
        OSError: a file cannot be read or written.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    if not source.is_dir():
        raise ConfigurationError(f"{source} is no folder")
    if target.is_relative_to(source):
        raise ConfigurationError(f"the target {target} must lie outside the source {source}")
    wanted = list(encodings) if encodings is not None else None
    coders = make_coders(wanted, zstd_level=19, br_quality=11, gzip_level=9, padding=0)
    found = sorted(path for path in source.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(source)))
    manifest: Manifest = {}
    for done, path in enumerate(found, 1):
        name = path.relative_to(source).as_posix()
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=12).hexdigest()
        hashed = str(PurePosixPath(name).with_stem(f"{PurePosixPath(name).stem}.{digest}"))
        # Before the variants: one older than its file is taken for a left-over.
        _write(target / hashed, content)
        _write(target / name, content)
        variants: dict[str, int] = {}
        if len(content) >= minimum_size and not is_compressed_media(_media_type(name)):
            for coding, coder in coders.items():
                ready = target / f"{hashed}{SUFFIXES[coding]}"
                coded = ready.read_bytes() if ready.is_file() else coder.encode(content)
                if len(coded) < len(content):
                    _write(ready, coded)
                    _write(target / f"{name}{SUFFIXES[coding]}", coded)
                    variants[coding] = len(coded)
        for suffix in (SUFFIXES[coding] for coding in ENCODINGS if coding not in variants):
            (target / f"{name}{suffix}").unlink(missing_ok=True)  # an earlier content's
        integrity = "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()
        manifest[name] = Asset(hashed, digest, integrity, len(content), variants)
        if progress is not None:
            progress(name, done, len(found))
    document = {"format": _FORMAT, "assets": {name: asdict(asset) for name, asset in manifest.items()}}
    _write(target / MANIFEST, json.dumps(document, indent=1, sort_keys=True).encode())
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a built folder; empty where there is none.

    Raises:
        ConfigurationError: it is not one that `build_assets` writes.
    """
    path = Path(folder) / MANIFEST
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != _FORMAT:
            raise ValueError(document["format"])
        return {name: Asset(**asset) for name, asset in document["assets"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} is no manifest of this version; build the assets again") from error


def _media_type(name: str) -> str:
    media_type, encoded = guess_type(name)
    return "application/gzip" if encoded else media_type or ""


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name == MANIFEST


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a server may read the folder meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(content)
    partial.replace(path)
