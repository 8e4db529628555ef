"""`smriti-scale shard`: review declared shard keys on real data, plan and apply the commands on a mongos."""

from __future__ import annotations

import json
from typing import Any

import typer

from smriti_scale.cli.database import (
    DRIFT,
    FAILED,
    AsJson,
    DatabaseGroup,
    Declarations,
    Name,
    Uri,
    load_indexes,
    on_database,
)
from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import Indexes
from smriti_scale.mongo.shard_plan import ShardPlan

app = typer.Typer(cls=DatabaseGroup, no_args_is_help=True, help="Review, plan and apply declared shard keys.")


@app.command()
def review(
    declarations: str = Declarations,
    uri: str = Uri,
    database: str = Name,
    as_json: bool = AsJson,
    shards: int = typer.Option(4, min=2, help="How many shards to simulate."),
    sample: int = typer.Option(10_000, min=100, help="Documents of each collection to look at."),
) -> None:
    """Score each declared shard key on the data there is; change nothing.

    Exits with 0 if no finding is bad, 2 if one is, 1 on an error.
    """
    indexes = _with_shard_keys(declarations)
    found = on_database(uri, database, lambda db: indexes.review_sharding(db, shards=shards, sample=sample))
    if as_json:
        typer.echo(json.dumps([one.to_dict() for one in found], indent=2))
    else:
        typer.echo("\n\n".join(map(str, found)))
    bad = any(finding.level == "bad" for one in found for finding in one.findings)
    raise typer.Exit(DRIFT if bad else 0)


@app.command()
def plan(declarations: str = Declarations, uri: str = Uri, database: str = Name, as_json: bool = AsJson) -> None:
    """Print the exact commands for mongosh. Exits with 0 in sync, 2 if there are any, 1 on an error."""
    found = on_database(uri, database, _with_shard_keys(declarations).plan_sharding)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    raise typer.Exit(0 if found.is_empty else DRIFT)


@app.command()
def apply(
    declarations: str = Declarations,
    uri: str = Uri,
    database: str = Name,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
) -> None:
    """Run the commands, on a mongos only."""
    indexes = _with_shard_keys(declarations)

    async def run(db: Any) -> int:
        found: ShardPlan = await indexes.plan_sharding(db)
        typer.echo(str(found))
        if found.on_mongos and not found.is_empty and not yes and not typer.confirm("Apply?"):
            raise typer.Exit(FAILED)
        return await found.apply(
            progress=lambda command, place, total: typer.echo(f"{place}/{total} {command}", err=True)
        )

    typer.echo(f"{on_database(uri, database, run)} command(s) run.")


def _with_shard_keys(declarations: str) -> Indexes:
    indexes = load_indexes(declarations)
    if not indexes.shard_keys:
        raise ConfigurationError(f"{declarations} declares no shard key: add ShardKey(…) to a collection's list")
    return indexes
