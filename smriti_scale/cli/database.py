"""What the commands about a database share: the declarations by name, the connection, exit codes."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from pymongo import AsyncMongoClient
from pymongo.errors import ConnectionFailure, InvalidURI, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri
from typer.core import TyperGroup

from smriti_scale.errors import ConfigurationError, ScaleError
from smriti_scale.mongo import Indexes

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase

T = TypeVar("T")

IN_SYNC, FAILED, DRIFT = 0, 1, 2

Declarations = typer.Argument(help="Where the declarations are: module:INDEXES.", metavar="MODULE:NAME")
Uri = typer.Option("", "--uri", envvar="MONGODB_URI", help="MongoDB's URI; better in the environment than here.")
Name = typer.Option("", "--database", envvar="DATABASE_NAME", help="The database, if the URI does not name it.")
AsJson = typer.Option(False, "--json", help="For machines.")

_SERVER_SELECTION_MS = 10_000


class DatabaseGroup(TyperGroup):
    """A group whose usage errors exit with 1: 2 means drift here, and a CI job must not take one for the other."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if getattr(error, "exit_code", None) == DRIFT and hasattr(error, "format_message"):
                error.exit_code = FAILED  # type: ignore[attr-defined]
            raise


def load_indexes(where: str) -> Indexes:
    """The `Indexes` at `module:NAME`.

    Raises:
        ConfigurationError: there is none.
    """
    module_name, _, name = where.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise ConfigurationError(f"{module_name} cannot be imported: no module {error.name!r}") from error
        raise ConfigurationError(f"no module {module_name!r} from {here}; write module:INDEXES") from None
    found: Any = module
    for part in (name or "INDEXES").split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Indexes):
        raise ConfigurationError(f"{where} is no Indexes, but {type(found).__name__}; write module:INDEXES")
    return found


def on_database(uri: str, database: str, work: Callable[[AsyncDatabase[dict[str, Any]]], Awaitable[T]]) -> T:
    """Run `work` on the database, and close the client.

    Raises:
        ConfigurationError: no URI, or no database is named.
        ScaleError: the server cannot be reached or refuses the user.
    """
    if not uri:
        raise ConfigurationError("no server is named: give --uri or set MONGODB_URI")
    try:
        named = parse_uri(uri, validate=True)["database"]
    except (InvalidURI, PyMongoError, ValueError) as error:
        raise ConfigurationError(f"the URI cannot be read: {error}") from None
    if not (database or named):
        raise ConfigurationError("no database is named: add it to the URI (…/name), or give --database")

    async def connected() -> T:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            uri, serverSelectionTimeoutMS=_SERVER_SELECTION_MS, appname="smriti-scale"
        )
        async with client:
            return await work(client[database or named])

    try:
        return asyncio.run(connected())
    except ConnectionFailure as error:
        raise ScaleError(f"no server answers: {str(error).partition(', Timeout')[0]}") from error
    except OperationFailure as error:
        told = (error.details or {}).get("errmsg", str(error))
        raise ScaleError(f"MongoDB refused: {told} (code {error.code})") from error
