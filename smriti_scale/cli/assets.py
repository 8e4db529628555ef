"""`smriti-scale assets static dist`: static files made ready to serve."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from smriti_scale.compression import build_assets


def command(
    source: Annotated[Path, typer.Argument(help="The folder with the files.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The folder to fill.", show_default=False)],
    minimum_size: Annotated[int, typer.Option(help="Bytes from which coded variants are made.", min=0)] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Give static files names with their content's hash, code them ahead of time, and write a manifest."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("building", total=None)

        def told(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        manifest = build_assets(source, target, minimum_size=minimum_size, progress=told)
    if as_json:
        print(json.dumps({name: asdict(asset) for name, asset in manifest.items()}, indent=1))
        return
    plain = sum(asset.size for asset in manifest.values())
    smallest = sum(min([asset.size, *asset.encodings.values()]) for asset in manifest.values())
    print(f"{len(manifest)} files in {target}: {plain:,} bytes, {smallest:,} as browsers get them")
