"""`smriti-scale indexes`: plan, apply, check and lint what an application declares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
from smriti_scale.mongo import Indexes, IndexPlan, Query
from smriti_scale.mongo.lint import LintFinding, unserved
from smriti_scale.mongo.plan import Progress, duration_text
from smriti_scale.mongo.shape import query_of

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(cls=DatabaseGroup, no_args_is_help=True, help="Plan, apply, check and lint declared indexes.")

Hide = typer.Option([], "--hide", help="Hide this undeclared index: collection.name. May be given again.")
Drop = typer.Option([], "--drop", help="Drop this index: collection.name. Nothing else is ever dropped.")
DropSuperseded = typer.Option(False, "--drop-superseded", help="Drop what a rebuild replaced and hid a while ago.")
DropAfter = typer.Option(24.0, "--drop-after", help="That while, in hours.", min=0)
SizeGate = typer.Option(10.0, "--size-gate", help="Gigabytes of data from which on nothing is built.", min=0)
Force = typer.Option(False, "--force", help="Build above the size gate; drop what is in use.")


def _plan_on(
    indexes: Indexes,
    *,
    hide: list[str],
    drop: list[str],
    drop_superseded: bool,
    drop_after: float,
    size_gate: float,
    force: bool,
) -> Callable[[Any], Any]:
    return lambda db: indexes.plan(
        db,
        hide=hide,
        drop=drop,
        drop_superseded=drop_superseded,
        drop_after=drop_after * 3600,
        size_gate=int(size_gate * 1e9),
        force=force,
    )


@app.command()
def plan(
    declarations: str = Declarations,
    uri: str = Uri,
    database: str = Name,
    as_json: bool = AsJson,
    hide: list[str] = Hide,
    drop: list[str] = Drop,
    drop_superseded: bool = DropSuperseded,
    drop_after: float = DropAfter,
    size_gate: float = SizeGate,
    force: bool = Force,
) -> None:
    """Show what would be done, and change nothing. Exits with 0 in sync, 2 on drift, 1 on an error."""
    make = _plan_on(
        load_indexes(declarations),
        hide=hide,
        drop=drop,
        drop_superseded=drop_superseded,
        drop_after=drop_after,
        size_gate=size_gate,
        force=force,
    )
    _show(on_database(uri, database, make), as_json=as_json)


@app.command()
def check(
    declarations: str = Declarations,
    uri: str = Uri,
    database: str = Name,
    as_json: bool = AsJson,
) -> None:
    """For CI: exits with 0 if the database is as declared, 2 if not, 1 on an error."""
    _show(on_database(uri, database, load_indexes(declarations).plan), as_json=as_json)


@app.command()
def apply(
    declarations: str = Declarations,
    uri: str = Uri,
    database: str = Name,
    as_json: bool = AsJson,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    wait: float = typer.Option(600.0, help="Seconds to wait while another instance applies.", min=0),
    prepare_unique: bool = typer.Option(
        False, "--prepare-unique", help="Where duplicates stand against unique, refuse new ones meanwhile."
    ),
    skip_refused: bool = typer.Option(False, "--skip-refused", help="Do the rest though some steps are refused."),
    hide: list[str] = Hide,
    drop: list[str] = Drop,
    drop_superseded: bool = DropSuperseded,
    drop_after: float = DropAfter,
    size_gate: float = SizeGate,
    force: bool = Force,
) -> None:
    """Show the plan, ask, and do it. Safe to interrupt and to run again."""
    make = _plan_on(
        load_indexes(declarations),
        hide=hide,
        drop=drop,
        drop_superseded=drop_superseded,
        drop_after=drop_after,
        size_gate=size_gate,
        force=force,
    )

    async def run(db: Any) -> dict[str, Any]:
        found: IndexPlan = await make(db)
        if not as_json:
            typer.echo(str(found))
        if not found.is_empty and not (yes or as_json) and not typer.confirm("Apply?"):
            raise typer.Exit(FAILED)
        with _progress(quiet=as_json or found.is_empty) as tell:
            done = await found.apply(progress=tell, wait=wait, prepare_unique=prepare_unique, skip_refused=skip_refused)
        if not as_json:
            for one in done:
                typer.echo(f"done: {one.step.kind} {one.step.collection}.{one.step.name}, {one.seconds:.1f} s")
        return {
            **found.to_dict(),
            "done": [{**one.step.to_dict(), "seconds": round(one.seconds, 3)} for one in done],
        }

    told = on_database(uri, database, run)
    if as_json:
        typer.echo(json.dumps(told, indent=2))


@app.command()
def lint(
    declarations: str = Declarations,
    uri: str = Uri,
    database: str = Name,
    as_json: bool = AsJson,
    query: str = typer.Option("", help="A collection to look at for --filter and --sort."),
    filter: str = typer.Option("{}", help="With --query: the filter, as JSON."),  # noqa: A002 - MongoDB's word
    sort: str = typer.Option("{}", help="With --query: the sort, as JSON."),
) -> None:
    """Find what is redundant, missing, too many or unsafe; with a URI also what no node uses.

    Exits with 0 for no findings, 2 for some, 1 on an error.
    """
    indexes = load_indexes(declarations)
    asked = _query(query, filter, sort)
    if asked is not None:
        found: tuple[LintFinding, ...] = tuple(unserved(query, indexes.collections.get(query, ()), [asked]))
    elif uri:
        found = on_database(uri, database, indexes.lint)
    else:
        import asyncio

        found = asyncio.run(indexes.lint())
    if as_json:
        fields = ("rule", "collection", "index", "text")
        typer.echo(json.dumps([{name: getattr(one, name) for name in fields} for one in found], indent=2))
    else:
        for one in found:
            typer.echo(str(one))
        typer.echo(f"{len(found)} finding(s)." if found else "No findings.")
    raise typer.Exit(DRIFT if found else 0)


def _query(collection: str, condition: str, sort: str) -> Query | None:
    if not collection:
        return None
    try:
        query = query_of(json.loads(condition), json.loads(sort))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"--filter and --sort are JSON documents: {error}") from None
    if query is None:
        raise ConfigurationError("--filter and --sort name no field")
    return query


def _show(plan: IndexPlan, *, as_json: bool) -> None:
    typer.echo(plan.to_json() if as_json else str(plan))
    raise typer.Exit(0 if plan.is_empty else DRIFT)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A bar for each step on a terminal's stderr; lines where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bars, TaskID, TextColumn, TimeElapsedColumn

    if quiet:
        yield None
        return
    console = Console(stderr=True)
    with Bars(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn(),
        console=console, disable=not console.is_terminal,
    ) as bars:  # fmt: skip
        rows: dict[tuple[str, str, str], TaskID] = {}

        def tell(now: Progress) -> None:
            row = rows.get(now.step.key)
            if row is None:
                expected = f", about {duration_text(now.step.estimate.seconds)}" if now.step.estimate else ""
                name = f"{now.step.kind} {now.step.collection}.{now.step.name}"
                row = rows[now.step.key] = bars.add_task(name, total=None, phase="")
                if not console.is_terminal:
                    console.print(f"{now.position}/{now.total} {name}{expected}", highlight=False)
            bars.update(row, total=None if now.fraction is None else 1.0, completed=now.fraction or 0, phase=now.phase)

        yield tell
