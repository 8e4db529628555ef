"""`smriti-scale indexes` and `smriti-scale shard`, as a terminal and a CI job use them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mockupdb import MockupDB
from pymongo import MongoClient

from smriti_scale.cli import main
from tests.mongo.mongos_mock import MongosMock

pytestmark = pytest.mark.long

DECLARATIONS = """
from smriti_scale.mongo import Index, Indexes, Query, ShardKey

INDEXES = Indexes(
    {"posts": [Index("user_id", ("created_at", -1)), Index("email", unique=True)]},
    queries={"posts": [Query("user_id", sort=[("created_at", -1)], name="feed")]},
)
SLOPPY = Indexes(
    {"posts": [Index("a"), Index("a", "b"), Index("sort", "range", "equal"), ShardKey("region")]},
    queries={"posts": [Query("equal", sort=[("sort", 1)], range=["range"], name="list"), Query("c")]},
)
SHARDED = Indexes({"posts": [ShardKey("user_id", hashed=True)]}, queries={"posts": [Query("created_at")]})
NOTHING = 5
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with declarations, beside which the command runs."""
    name = f"declared_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text(DECLARATIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONGODB_URI", raising=False)
    monkeypatch.delenv("DATABASE_NAME", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        try:
            main(words)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1 if left.code else 0
        else:
            code = 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def database(mongo_uri: str, mongo_database_name: str) -> Iterator[Any]:
    with MongoClient[Any](mongo_uri) as client:
        yield client[mongo_database_name]


@pytest.fixture
def there(mongo_uri: str, mongo_database_name: str) -> list[str]:
    return ["--uri", mongo_uri, "--database", mongo_database_name]


def test_check_plan_and_apply_tell_drift_by_their_exit_code(
    run: Run, declared: str, there: list[str], database: Any
) -> None:
    where = f"{declared}:INDEXES"
    code, out, _ = run("indexes", "check", where, *there)
    assert code == 2
    assert "+ create" in out
    assert "Plan: 2 to create." in out
    code, out, err = run("indexes", "apply", where, "--yes", *there)
    assert code == 0
    assert "done: create posts.user_id_1_created_at_-1" in out
    assert "1/2 create posts.user_id_1_created_at_-1, about 1 s or less" in err
    assert run("indexes", "check", where, *there)[0] == 0
    code, out, _ = run("indexes", "plan", where, "--json", *there)
    assert code == 0
    assert json.loads(out)["in_sync"] is True
    assert sorted(database.posts.index_information()) == ["_id_", "email_1", "user_id_1_created_at_-1"]


def test_apply_asks_first(
    run: Run, declared: str, there: list[str], database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.confirm", lambda question: False)
    assert run("indexes", "apply", f"{declared}:INDEXES", *there)[0] == 1
    assert "posts" not in database.list_collection_names()


def test_apply_in_json_tells_what_was_done(run: Run, declared: str, there: list[str]) -> None:
    code, out, err = run("indexes", "apply", f"{declared}:INDEXES", "--json", *there)
    assert (code, err) == (0, "")
    assert [step["index"] for step in json.loads(out)["done"]] == ["user_id_1_created_at_-1", "email_1"]


def test_duplicates_are_one_error_with_the_documents(run: Run, declared: str, there: list[str], database: Any) -> None:
    database.posts.insert_many([{"_id": 1, "email": "x"}, {"_id": 2, "email": "x"}])
    code, _, err = run("indexes", "apply", f"{declared}:INDEXES", "-y", *there)
    assert code == 1
    assert "{'email': 'x'} in 2 documents, _id 1, 2" in err
    assert "Traceback" not in err


def test_only_what_is_named_is_dropped(run: Run, declared: str, there: list[str], database: Any) -> None:
    database.posts.create_index("old")
    run("indexes", "apply", f"{declared}:INDEXES", "-y", *there)
    assert "old_1" in database.posts.index_information()
    code, out, _ = run("indexes", "plan", f"{declared}:INDEXES", "--drop", "posts.old_1", *there)
    assert code == 2
    assert "unused on 3 nodes" in out
    assert run("indexes", "apply", f"{declared}:INDEXES", "-y", "--drop", "posts.old_1", *there)[0] == 0
    assert "old_1" not in database.posts.index_information()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["indexes", "check", "{module}:INDEXES"], "no server is named"),
        (["indexes", "check", "{module}:INDEXES", "--uri", "mongodb://127.0.0.1:1/"], "no database is named"),
        (["indexes", "check", "{module}:INDEXES", "--uri", "nonsense"], "the URI cannot be read"),
        (["indexes", "check", "{module}:NOTHING", "--uri", "mongodb://h/d"], "is no Indexes, but int"),
        (["indexes", "check", "no_such_module:X", "--uri", "mongodb://h/d"], "no module 'no_such_module'"),
        (["indexes", "check", "{module}:INDEXES", "--nonsense"], "No such option"),
        (["indexes", "check"], "Missing argument"),
        (["indexes", "nonsense"], "No such command"),
        (["shard", "plan", "{module}:INDEXES", "--uri", "mongodb://h/d"], "declares no shard key"),
        (["indexes", "lint", "{module}:INDEXES", "--query", "posts", "--filter", "no"], "JSON"),
        (["indexes", "lint", "{module}:INDEXES", "--query", "posts"], "name no field"),
    ],
)
def test_an_error_exits_with_1_so_that_2_always_means_drift(
    run: Run, declared: str, words: list[str], sentence: str
) -> None:
    code, _, err = run(*(word.format(module=declared) for word in words))
    assert code == 1
    assert sentence in err
    assert "Traceback" not in err


def test_a_server_that_is_not_there_is_an_error(run: Run, declared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smriti_scale.cli.database._SERVER_SELECTION_MS", 200)
    code, _, err = run("indexes", "check", f"{declared}:INDEXES", "--uri", "mongodb://user:secret@127.0.0.1:1/app")
    assert code == 1
    assert "no server answers" in err
    assert "secret" not in err


def test_lint_finds_what_is_wrong_with_declarations_alone(run: Run, declared: str) -> None:
    assert run("indexes", "lint", f"{declared}:INDEXES") == (0, "No findings.\n", "")
    code, out, _ = run("indexes", "lint", f"{declared}:SLOPPY", "--json")
    assert code == 2
    assert [(found["rule"], found["index"]) for found in json.loads(out)] == [
        ("redundant", "a_1"),
        ("order", "sort_1_range_1_equal_1"),
        ("missing", None),
        ("unsupported-shard-key", None),
    ]


def test_lint_answers_for_one_query(run: Run, declared: str) -> None:
    words = ["indexes", "lint", f"{declared}:INDEXES", "--query", "posts", "--filter", '{"user_id": 1}']
    assert run(*words)[0] == 0
    assert run(*words, "--sort", '{"created_at": -1}')[0] == 0
    code, out, _ = run(*words, "--sort", '{"likes": -1}')
    assert code == 2
    assert "declare Index('user_id', ('likes', -1))" in out


def test_lint_on_a_database_finds_what_no_node_uses(run: Run, declared: str, there: list[str], database: Any) -> None:
    database.posts.create_index("title")
    code, out, _ = run("indexes", "lint", f"{declared}:INDEXES", *there)
    assert code == 2
    assert "posts.title_1: unused: no node of 3 has used it" in out


def test_a_shard_key_is_reviewed_planned_and_refused_off_a_mongos(
    run: Run, declared: str, there: list[str], database: Any
) -> None:
    where = f"{declared}:SHARDED"
    code, _, err = run("shard", "review", where, *there)
    assert code == 1
    assert "holds no documents" in err
    database.posts.insert_many([{"user_id": n, "created_at": n} for n in range(500)])
    code, out, _ = run("shard", "review", where, "--json", *there)
    assert code == 2
    assert json.loads(out)[0]["reach"] == {"created_at": "all shards"}
    code, out, _ = run("shard", "plan", where, *there)
    assert code == 2
    assert "db.adminCommand({ shardCollection:" in out
    code, _, err = run("shard", "apply", where, "-y", *there)
    assert code == 1
    assert "shard commands run on a mongos" in err


def test_a_shard_plan_is_applied_on_a_mongos(run: Run, declared: str) -> None:
    server = MockupDB()
    server.run()
    try:
        with MongosMock(server) as mongos:
            there = ["--uri", f"{server.uri}/shop"]
            code, out, err = run("shard", "apply", f"{declared}:SHARDED", "--yes", *there)
            assert code == 0, err
            assert "2 command(s) run." in out
            assert mongos.sharded == {"shop.posts": {"user_id": "hashed"}}
            assert run("shard", "plan", f"{declared}:SHARDED", "--json", *there)[0] == 0
    finally:
        server.stop()
