"""`smriti-scale tasks`: run workers and beat, look at queues, see to dead letters."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import typer

from smriti_scale.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from smriti_scale.tasks.app import ScaleCelery
    from smriti_scale.tasks.dead_letters import DeadLetter, DeadLetters
    from smriti_scale.tasks.queues import BrokerState

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Run workers and beat, look at queues, see to dead letters.")

dead = typer.Typer(no_args_is_help=True, help="Tasks that will not be tried again by themselves.")
app.add_typer(dead, name="dead")

Ids = typer.Argument(None, help="Ids of dead letters.")
App = typer.Option(
    ...,
    "--app",
    "-A",
    envvar="SMRITI_TASKS_APP",
    help="Where make_celery was called: module or module:name.",
)


@app.command()
def worker(
    app: str = App,
    queues: str = typer.Option("", help="Comma-separated; all queues of the app by default."),
    concurrency: int = typer.Option(0, min=0, help="Processes; one for each core by default."),
    pool: str = typer.Option("prefork", help="prefork, threads or solo."),
    log_level: str = typer.Option("info", help="debug, info, warning or error."),
    beat: bool = typer.Option(False, "--beat", help="Run beat inside this worker as well."),
) -> None:
    """Work off tasks until SIGTERM, then finish those under way.

    A second SIGTERM gives running tasks a last while (the policy's `shutdown_grace`) and hands the rest back.
    """
    celery = load_app(app)
    arguments = ["worker", f"--loglevel={log_level}", f"--pool={pool}", "--without-gossip", "--without-mingle"]
    if queues:
        arguments.append(f"--queues={queues}")
    if concurrency:
        arguments.append(f"--concurrency={concurrency}")
    if beat:
        arguments.append("--beat")
    celery.worker_main(arguments)


@app.command()
def beat(app: str = App, log_level: str = typer.Option("info", help="debug, info, warning or error.")) -> None:
    """Publish what the schedule says. Several may run: one beats, the others stand by."""
    load_app(app).start(["beat", f"--loglevel={log_level}", "--pidfile="])


@app.command()
def status(
    app: str = App,
    as_json: bool = typer.Option(False, "--json", help="For machines."),
) -> None:
    """How many tasks wait in each queue, and how old the oldest is."""
    celery = load_app(app)

    async def look() -> BrokerState:
        try:
            return await celery.queue_monitor.measure()
        finally:
            await celery.aclose()

    state = asyncio.run(look())
    if as_json:
        typer.echo(orjson.dumps(state))
        return
    show(
        ("queue", "waiting", "oldest"),
        [(queue.name, f"{queue.depth:,}", f"{queue.age:,.1f} s") for queue in state.queues],
    )
    typer.echo(f"{state.running:,} in workers' hands, {state.dead:,} dead letters")


@dead.command("list")
def list_dead(
    app: str = App,
    limit: int = typer.Option(50, min=1, help="At most so many, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="For machines: one object a line."),
) -> None:
    """List dead letters."""
    letters = run_on(app, lambda dead_letters: dead_letters.newest(limit))
    if as_json:
        for letter in letters:
            typer.echo(orjson.dumps(letter, default=str))
        return
    show(
        ("id", "task", "queue", "reason", "died", "error"),
        [
            (one.id, one.task, one.queue, one.reason, f"{one.died_at:%Y-%m-%d %H:%M:%S}Z", one.error[:80])
            for one in letters
        ],
    )


@dead.command("show")
def show_dead(letter_id: str, app: str = App) -> None:
    """Everything about one dead letter, as JSON."""
    letter = run_on(app, lambda dead_letters: dead_letters.get(letter_id))
    if letter is None:
        raise ConfigurationError(f"there is no dead letter {letter_id}")
    typer.echo(orjson.dumps(letter, option=orjson.OPT_INDENT_2, default=str))


@dead.command("replay")
def replay_dead(
    ids: list[str] = Ids,
    app: str = App,
    everything: bool = typer.Option(False, "--all", help="All that match."),
    task: str = typer.Option("", help="With --all: only of this task."),
    reason: str = typer.Option("", help="With --all: only for this reason."),
) -> None:
    """Put dead letters back into their queues, once each."""
    done = run_on(app, lambda letters: _each(letters, letters.replay, ids, everything, task, reason, None))
    typer.echo(f"{done:,} replayed")


@dead.command("purge")
def purge_dead(
    ids: list[str] = Ids,
    app: str = App,
    everything: bool = typer.Option(False, "--all", help="All that match."),
    task: str = typer.Option("", help="With --all: only of this task."),
    reason: str = typer.Option("", help="With --all: only for this reason."),
    older_than_days: float = typer.Option(0, min=0, help="With --all: only those that died so long ago."),
) -> None:
    """Drop dead letters for good."""
    before = time.time() - older_than_days * 86_400 if older_than_days else None
    done = run_on(app, lambda letters: _each(letters, letters.purge, ids, everything, task, reason, before))
    typer.echo(f"{done:,} purged")


async def _each(
    letters: DeadLetters,
    act: Callable[[DeadLetter], Awaitable[bool]],
    ids: Sequence[str],
    everything: bool,
    task: str,
    reason: str,
    before: float | None,
) -> int:
    if bool(ids) == everything:
        raise ConfigurationError("name dead letters by their ids, or say --all")
    done = 0
    if everything:
        async for letter in letters.each(task=task or None, reason=reason or None, before=before):
            if letter.message is not None or act == letters.purge:
                done += await act(letter)
        return done
    for letter_id in ids:
        found = await letters.get(letter_id)
        if found is None:
            raise ConfigurationError(f"there is no dead letter {letter_id}")
        done += await act(found)
    return done


def run_on(path: str, work: Callable[[DeadLetters], Awaitable[T]]) -> T:
    """Run `work` with the dead letters of the app at `path`."""
    celery = load_app(path)

    async def run() -> T:
        try:
            return await work(celery.dead_letters)
        finally:
            await celery.aclose()

    return asyncio.run(run())


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, as wide as the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def load_app(path: str) -> ScaleCelery:
    """The app at `module:name`, or the only one in `module`.

    Raises:
        ConfigurationError: there is none, or several.
        MissingExtraError: Celery is not installed.
    """
    try:
        from smriti_scale.tasks.app import ScaleCelery
    except ImportError as error:
        raise MissingExtraError("tasks", package="celery", feature="smriti-scale tasks") from error
    module_name, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise ConfigurationError(
            f"no module {module_name!r} from {Path.cwd()}; --app is module or module:name"
        ) from None
    if name:
        found: Any = getattr(module, name, None)
        if not isinstance(found, ScaleCelery):
            raise ConfigurationError(f"{path} is no app made by make_celery, but {type(found).__name__}")
        return found
    apps = {id(value): value for value in vars(module).values() if isinstance(value, ScaleCelery)}
    if len(apps) != 1:
        raise ConfigurationError(
            f"{module_name} holds {len(apps)} apps made by make_celery; say --app {module_name}:NAME"
        )
    return next(iter(apps.values()))
