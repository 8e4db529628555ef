from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId
from fastapi import FastAPI
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.circles import rules
from tests.examples.smriti.conftest import Person, data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]

FULL = {
    "circleId", "_id", "name", "description", "color", "emoji", "inviteCode", "invite_code", "members", "memberCount",
    "maxMembers", "deletionVotes", "deletion_votes", "myDeletionVote", "createdAt", "createdBy",
}  # fmt: skip


async def found(person: Person, **fields: Any) -> dict[str, Any]:
    body = {"name": "The porch", **fields}
    circle: dict[str, Any] = data_of(await person.client.post("/api/circles/", json=body), 201)["circle"]
    return circle


async def enter(person: Person, circle: dict[str, Any]) -> None:
    data_of(await person.client.post("/api/circles/join", json={"inviteCode": circle["inviteCode"]}), 201)


async def test_a_circle_begins_with_its_creator(join: Join) -> None:
    person = await join("asha")
    circle = await found(person, name="  The porch ", description=" evenings ", emoji="🌿", color="8d6e63")
    assert set(circle) == FULL
    assert (circle["name"], circle["description"], circle["color"]) == ("The porch", "evenings", "#8D6E63")
    assert re.fullmatch(f"[{rules._CODE_SYMBOLS}]{{8}}", circle["inviteCode"])
    assert [member["userId"] for member in circle["members"]] == [person.id]
    assert circle["createdBy"] == {"userId": person.id, "username": "asha"}
    assert (circle["memberCount"], circle["maxMembers"], circle["deletionVotes"]) == (1, 5, 0)
    assert (await found(person))["color"] in rules.PALETTE


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"name": " a "},
        {"name": "n" * 41},
        {"name": "ok", "description": "d" * 201},
        {"name": "ok", "emoji": "e" * 11},
        {"name": "ok", "color": "#000000"},
        {"name": 7},
    ],
)
async def test_what_breaks_a_rule_is_400(join: Join, wrong: dict[str, Any]) -> None:
    person = await join()
    error_of(await person.client.post("/api/circles", json=wrong), 400)
    circle = await found(person)
    if wrong and "name" in wrong:
        error_of(await person.client.patch(f"/api/circles/{circle['circleId']}", json=wrong), 400)


async def test_my_circles_newest_first_with_the_time_of_their_newest_post(join: Join) -> None:
    person, other = await join(), await join()
    quiet, busy = await found(person, name="quiet"), await found(person, name="busy")
    await found(other, name="other")
    answer = await person.client.post(
        f"/api/circles/{busy['circleId']}/posts", data={"content_type": "note", "text_content": "hello"}
    )
    post = data_of(answer, 201)["post"]
    data = data_of(await person.client.get("/api/circles"))
    assert [item["circleId"] for item in data["circles"]] == [busy["circleId"], quiet["circleId"]]
    assert [item["lastActivityAt"] for item in data["circles"]] == [post["createdAt"], None]
    assert (data["total"], data["skip"], data["limit"], data["next_cursor"]) == (2, 0, 20, None)
    assert "inviteCode" not in data["circles"][0]
    assert "members" not in data["circles"][0]
    first = data_of(await person.client.get("/api/circles", params={"limit": 1}))
    rest = data_of(await person.client.get("/api/circles", params={"limit": 1, "cursor": first["next_cursor"]}))
    assert [item["name"] for item in first["circles"] + rest["circles"]] == ["busy", "quiet"]
    for wrong in ("limit=51", "skip=-1", "cursor=x"):
        error_of(await person.client.get(f"/api/circles?{wrong}"), 400)


async def test_an_invitation_shows_what_a_stranger_may_see(join: Join) -> None:
    person, stranger = await join(), await join()
    circle = await found(person)
    code = circle["inviteCode"]
    seen = data_of(await stranger.client.get(f"/api/circles/preview/{code.lower()}"))["circle"]
    assert set(seen) == {
        "name", "color", "emoji", "memberCount", "maxMembers", "isFull", "alreadyMember", "createdAt",
    }  # fmt: skip
    assert (seen["alreadyMember"], seen["isFull"]) == (False, False)
    mine = data_of(await person.client.get(f"/api/circles/preview/{code}"))
    assert mine["circle"]["alreadyMember"]
    assert mine["name"] == circle["name"]
    for wrong in ("AAAAAAAA", "AAA", "A" * 50):
        error_of(await stranger.client.get(f"/api/circles/preview/{wrong}"), 404, "INVALID_INVITE_CODE")


async def test_joining_and_its_refusals(join: Join) -> None:
    people = [await join() for _ in range(6)]
    circle = await found(people[0])
    code = circle["inviteCode"]
    joined = data_of(
        await people[1].client.post("/api/circles/join", json={"invite_code": f" {code[:4]} {code[4:].lower()} "}), 201
    )["circle"]
    assert [member["userId"] for member in joined["members"]] == [people[0].id, people[1].id]
    error_of(await people[1].client.post("/api/circles/join", json={"inviteCode": code}), 409, "ALREADY_MEMBER")
    error_of(
        await people[2].client.post("/api/circles/join", json={"inviteCode": "AAAAAAAA"}), 404, "INVALID_INVITE_CODE"
    )
    for body in ({}, {"inviteCode": "SHORT"}, {"inviteCode": None}):
        error_of(await people[2].client.post("/api/circles/join", json=body), 400)
    data_of(await people[2].client.post(f"/api/circles/join/{code}"), 201)
    for person in people[3:5]:
        await enter(person, circle)
    error_of(await people[5].client.post("/api/circles/join", json={"inviteCode": code}), 409, "CIRCLE_FULL")


@pytest.mark.long
async def test_nobody_is_in_more_than_twenty_circles_however_many_ask_at_once(join: Join, motor_db: Database) -> None:
    person, host = await join(), await join()
    for number in range(18):
        await found(person, name=f"circle {number}")
    others = [await found(host, name=f"host {number}") for number in range(5)]
    answers = await asyncio.gather(
        *(person.client.post("/api/circles/", json={"name": f"extra {number}"}) for number in range(5)),
        *(person.client.post("/api/circles/join", json={"inviteCode": each["inviteCode"]}) for each in others),
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [403] * 8
    assert await motor_db.circles.count_documents({"members.user_id": person.id}) == 20
    error_of(
        await person.client.post("/api/circles/join", json={"inviteCode": "AAAAAAAA"}), 403, "CIRCLE_LIMIT_REACHED"
    )


@pytest.mark.long
async def test_only_five_of_many_who_join_at_once_get_in(join: Join) -> None:
    host = await join()
    circle = await found(host)
    people = [await join() for _ in range(10)]
    answers = await asyncio.gather(
        *(person.client.post("/api/circles/join", json={"inviteCode": circle["inviteCode"]}) for person in people)
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [409] * 6
    await host.catch_up()
    assert data_of(await host.client.get(f"/api/circles/{circle['circleId']}"))["circle"]["memberCount"] == 5


@pytest.mark.parametrize("method", ["patch", "put"])
async def test_any_member_may_change_it_and_nothing_given_just_reads(join: Join, method: str) -> None:
    person, member = await join(), await join()
    circle = await found(person, description="old")
    await enter(member, circle)
    path = f"/api/circles/{circle['circleId']}"
    change = getattr(member.client, method)
    changed = data_of(await change(path, json={"name": " New name ", "description": ""}))["circle"]
    assert (changed["name"], changed["description"], changed["color"]) == ("New name", None, circle["color"])
    assert data_of(await change(path, json={}))["circle"]["name"] == "New name"
    error_of(await change(path, json={"name": "   "}), 400)


async def test_a_new_invite_code_kills_the_old_one_at_once(join: Join) -> None:
    person, guest = await join(), await join()
    circle = await found(person)
    data = data_of(await person.client.post(f"/api/circles/{circle['circleId']}/regenerate-invite"))
    assert data["inviteCode"] == data["invite_code"] != circle["inviteCode"]
    error_of(
        await guest.client.post("/api/circles/join", json={"inviteCode": circle["inviteCode"]}),
        404,
        "INVALID_INVITE_CODE",
    )
    data_of(await guest.client.post("/api/circles/join", json={"inviteCode": data["inviteCode"]}), 201)


async def test_strangers_and_wrong_ids_get_the_same_answers(join: Join) -> None:
    person, stranger = await join(), await join()
    circle = await found(person)
    for identifier in (circle["circleId"], str(ObjectId()), "malformed"):
        path = f"/api/circles/{identifier}"
        for method, where in (
            ("GET", path), ("PATCH", path), ("PUT", path), ("POST", f"{path}/regenerate-invite"),
            ("POST", f"{path}/vote-delete"), ("DELETE", f"{path}/vote-delete"),
        ):  # fmt: skip
            body = {"name": "mine now"} if method in ("PATCH", "PUT") else None
            error_of(await stranger.client.request(method, where, json=body), 404, "CIRCLE_NOT_FOUND")
        error_of(await stranger.client.get(f"{path}/posts"), 403, "NOT_CIRCLE_MEMBER")
        form = {"content_type": "note", "text_content": "x"}
        error_of(await stranger.client.post(f"{path}/posts", data=form), 403, "NOT_CIRCLE_MEMBER")


async def test_a_circle_feed_has_names_in_the_order_of_the_posts_circles(join: Join, motor_db: Database) -> None:
    person = await join()
    one, two = await found(person, name="one"), await found(person, name="two")
    ids = [two["circleId"], one["circleId"]]
    post = await person.note("to both", visibility="circles", circle_ids=f" {ids[0]}, ,{ids[1].upper()},{ids[0]}")
    assert (post["visibility"], post["circleIds"]) == ("circles", ids)
    page = data_of(await person.client.get(f"/api/circles/{one['circleId']}/posts"))
    assert page["posts"][0]["circleNames"] == ["two", "one"]
    assert (page["total"], page["next_cursor"]) == (1, None)
    await motor_db.circles.delete_one({"_id": ObjectId(two["circleId"])})
    page = data_of(await person.client.get(f"/api/circles/{one['circleId']}/posts"))
    assert page["posts"][0]["circleNames"][1] == "one"
    assert page["posts"][0]["circleNames"][0]
    assert data_of(await person.client.get("/api/posts"))["count"] == 0


async def test_posting_to_circles_one_is_not_in_is_403_and_stores_nothing(join: Join, motor_db: Database) -> None:
    person, other = await join(), await join()
    mine, theirs = await found(person), await found(other)
    form = {"content_type": "note", "text_content": "x", "visibility": "circles"}
    for ids in (theirs["circleId"], f"{mine['circleId']},{theirs['circleId']}", str(ObjectId())):
        error_of(await person.client.post("/api/posts/", data={**form, "circle_ids": ids}), 403, "NOT_CIRCLE_MEMBER")
    for ids in ("", " , ", "malformed"):
        error_of(await person.client.post("/api/posts/", data={**form, "circle_ids": ids}), 400)
    public = {**form, "visibility": "public", "circle_ids": mine["circleId"]}
    error_of(await person.client.post("/api/posts/", data=public), 400)
    assert await motor_db.posts.count_documents({}) == 0


async def test_a_unanimous_vote_removes_the_circle_and_sets_its_posts_free(join: Join, motor_db: Database) -> None:
    person, member = await join(), await join()
    doomed, kept = await found(person, name="doomed"), await found(person, name="kept")
    await enter(member, doomed)
    only = await person.note("only here", visibility="circles", circle_ids=doomed["circleId"])
    both = await person.note("both", visibility="circles", circle_ids=f"{doomed['circleId']},{kept['circleId']}")
    path = f"/api/circles/{doomed['circleId']}/vote-delete"
    for _ in range(2):  # repeating a vote changes nothing
        votes = data_of(await person.client.post(path))
        assert votes == {"votesNeeded": 2, "votesCast": 1, "yourVote": True, "deleted": False}
    taken = data_of(await person.client.request("DELETE", path))
    assert taken == {"votesNeeded": 2, "votesCast": 0, "yourVote": False, "deleted": False}
    error_of(await person.client.request("DELETE", path), 400, "NO_VOTE")
    data_of(await person.client.post(path))
    assert data_of(await member.client.post(path))["deleted"] is True
    error_of(await person.client.get(f"/api/circles/{doomed['circleId']}"), 404, "CIRCLE_NOT_FOUND")
    error_of(await person.client.get(f"/api/circles/{doomed['circleId']}/posts"), 403, "NOT_CIRCLE_MEMBER")
    error_of(await member.client.get(f"/api/circles/preview/{doomed['inviteCode']}"), 404, "INVALID_INVITE_CODE")
    mine = {post["postId"]: post for post in data_of(await person.client.get("/api/posts/me"))["posts"]}
    assert (mine[only["postId"]]["visibility"], mine[only["postId"]]["circleIds"]) == ("private", None)
    assert (mine[both["postId"]]["visibility"], mine[both["postId"]]["circleIds"]) == ("circles", [kept["circleId"]])
    error_of(await member.client.delete(f"/api/posts/{only['postId']}"), 403)
    data_of(await person.client.delete(f"/api/posts/{only['postId']}"))


async def test_a_lone_member_deletes_at_once(join: Join) -> None:
    person = await join()
    circle = await found(person)
    votes = data_of(await person.client.post(f"/api/circles/{circle['circleId']}/vote-delete"))
    assert votes == {"votesNeeded": 1, "votesCast": 1, "yourVote": True, "deleted": True}


@pytest.mark.long
async def test_votes_joins_and_posts_at_once_leave_no_post_at_a_dead_circle(join: Join, motor_db: Database) -> None:
    for _ in range(5):
        person, newcomer = await join(), await join()
        circle = await found(person)
        where = f"/api/circles/{circle['circleId']}"
        form = {"content_type": "note", "text_content": "x"}
        vote, joined, *posted = await asyncio.gather(
            person.client.post(f"{where}/vote-delete"),
            newcomer.client.post("/api/circles/join", json={"inviteCode": circle["inviteCode"]}),
            *(person.client.post(f"{where}/posts", data=form) for _ in range(4)),
        )
        deleted = data_of(vote)["deleted"]
        assert deleted == (joined.status_code == 404)
        assert {answer.status_code for answer in posted} <= {201, 403}
        alive = await motor_db.circles.find_one({"_id": ObjectId(circle["circleId"])})
        assert (alive is None) == deleted
        if deleted:
            assert await motor_db.posts.count_documents({"circle_ids": circle["circleId"]}) == 0
        elif alive is not None:
            assert len(alive["members"]) == alive["member_count"] == 2


async def test_lengths_are_inclusive_and_colours_are_made_alike(join: Join) -> None:
    person = await join()
    circle = await found(person, name="ab", description="d" * 200, emoji="🌿" * 10, color=" #8d6e63 ")
    assert (circle["name"], circle["description"], circle["emoji"]) == ("ab", "d" * 200, "🌿" * 10)
    assert circle["color"] == "#8D6E63"
    path = f"/api/circles/{circle['circleId']}"
    changed = data_of(await person.client.patch(path, json={"name": f" {'n' * 40} ", "color": "7986cb"}))["circle"]
    assert (changed["name"], changed["color"]) == ("n" * 40, "#7986CB")


async def test_a_member_of_a_full_circle_is_told_that_they_are_in_it_and_others_that_it_is_full(join: Join) -> None:
    people = [await join() for _ in range(6)]
    circle = await found(people[0])
    for person in people[1:5]:
        await enter(person, circle)
    code = {"inviteCode": circle["inviteCode"]}
    error_of(await people[1].client.post("/api/circles/join", json=code), 409, "ALREADY_MEMBER")
    error_of(await people[5].client.post("/api/circles/join", json=code), 409, "CIRCLE_FULL")
    await people[5].catch_up()
    seen = data_of(await people[5].client.get(f"/api/circles/preview/{circle['inviteCode']}"))["circle"]
    assert (seen["isFull"], seen["alreadyMember"], seen["memberCount"]) == (True, False, 5)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"content_type": "poem"}, {"content_type": "note"}, {"content_type": "link"}, {"content_type": "image"}],
    ids=lambda wrong: wrong.get("content_type", "nothing"),
)
async def test_what_breaks_a_rule_of_posts_is_400_in_a_circle_too(
    join: Join, motor_db: Database, wrong: dict[str, str]
) -> None:
    person = await join()
    circle = await found(person)
    error_of(await person.client.post(f"/api/circles/{circle['circleId']}/posts", data=wrong), 400)
    assert await motor_db.posts.count_documents({}) == 0


async def test_a_newcomer_raises_the_number_of_votes_needed(join: Join) -> None:
    person, member, newcomer = await join(), await join(), await join()
    circle = await found(person)
    await enter(member, circle)
    path = f"/api/circles/{circle['circleId']}/vote-delete"
    assert data_of(await person.client.post(path))["votesNeeded"] == 2
    await enter(newcomer, circle)
    votes = data_of(await member.client.post(path))
    assert (votes["votesNeeded"], votes["votesCast"], votes["deleted"]) == (3, 2, False)
    assert data_of(await newcomer.client.post(path))["deleted"] is True


@pytest.mark.long
async def test_of_fifty_votes_at_once_one_removes_the_circle(join: Join, motor_db: Database) -> None:
    people = [await join() for _ in range(5)]
    circle = await found(people[0])
    for person in people[1:]:
        await enter(person, circle)
    path = f"/api/circles/{circle['circleId']}/vote-delete"
    answers = await asyncio.gather(*(person.client.post(path) for person in people for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert sum(answer.json().get("data", {}).get("deleted", False) for answer in answers) == 1
    assert await motor_db.circles.count_documents({}) == 0


@pytest.mark.long
async def test_of_fifty_new_invite_codes_at_once_the_last_one_lives(join: Join, motor_db: Database) -> None:
    person = await join()
    circle = await found(person)
    path = f"/api/circles/{circle['circleId']}/regenerate-invite"
    answers = await asyncio.gather(*(person.client.post(path) for _ in range(50)))
    codes = {data_of(answer)["inviteCode"] for answer in answers}
    stored = await motor_db.circles.find({}, {"invite_code": 1}).to_list(None)
    assert len(codes) == 50
    assert [each["invite_code"] in codes for each in stored] == [True]


async def test_an_invite_code_that_is_taken_is_drawn_again(
    app: FastAPI, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await join()
    taken = (await found(person))["inviteCode"]
    draws = iter([taken, "BBBBBBBB", taken, taken, "CCCCCCCC"])
    monkeypatch.setattr(rules, "new_invite_code", lambda: next(draws))
    second = await found(person)
    assert second["inviteCode"] == "BBBBBBBB"
    answer = await person.client.post(f"/api/circles/{second['circleId']}/regenerate-invite")
    assert data_of(answer)["inviteCode"] == "CCCCCCCC"
