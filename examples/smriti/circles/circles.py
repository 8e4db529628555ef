"""The circles collection. Whatever can overlap (joining, voting, posting, the limit of twenty) is one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from examples.smriti.answers import ApiError, iso, json_bytes
from examples.smriti.auth.accounts import User, now
from examples.smriti.circles import rules
from examples.smriti.lists import aggregated, page_of
from examples.smriti.posts.tags import circle_tag
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients
from smriti_scale.pagination import CursorPaginator

_CODE_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class CirclesPage:
    """A page of somebody's circles.

    Args:
        body: a JSON object.
        circle_ids: of the circles in it.
    """

    body: bytes
    circle_ids: tuple[str, ...]


class Circles:
    """Private groups of up to five.

    Args:
        mongo: clients for writing and reading.
        cache: holds lists of circles; every write that changes them drops them.
        paginator: newest first.
    """

    def __init__(self, mongo: MongoClients, cache: Cache, paginator: CursorPaginator) -> None:
        self._mongo = mongo
        self._cache = cache

        # Dropped when the person joins or founds one, and, by the circles in it, when one of those is changed,
        # posted to or removed.
        @cache.cached(
            ttl=30,
            key="circles:{user_id}:{skip}:{limit}:{cursor}",
            tags=["circles:{user_id}"],
            tags_from=lambda page: [circle_tag(each) for each in page.circle_ids],
            shared=True,
        )
        async def listed(user_id: str, *, skip: int, limit: int, cursor: str | None) -> CirclesPage:
            mine = {"members.user_id": user_id}
            circles = mongo.read.circles
            found, next_cursor = await page_of(
                paginator, circles, mine, skip=skip, limit=limit, cursor=cursor, scope=user_id
            )
            ids = [str(each["_id"]) for each in found]
            activity = await self.last_activity(ids)
            page = {
                "circles": [item(each, activity.get(str(each["_id"]))) for each in found],
                "total": await circles.count_documents(mine),
                "skip": skip,
                "limit": limit,
                "next_cursor": next_cursor,
            }
            return CirclesPage(json_bytes(page), tuple(ids))

        self._listed = listed

    async def create(
        self, user: User, *, name: str, description: str | None, color: str | None, emoji: str | None
    ) -> dict[str, Any]:
        """Found a circle; its creator is the first member.

        Raises:
            ApiError: CIRCLE_LIMIT_REACHED.
        """
        moment = now()
        document: dict[str, Any] = {
            "_id": ObjectId(),
            "name": name,
            "description": description,
            "color": color or rules.random_color(),
            "emoji": emoji,
            "members": [_member(user)],
            "member_count": 1,
            "max_members": rules.MOST_MEMBERS,
            "deletion_votes": [],
            "created_at": moment,
            "created_by": {"user_id": user.id, "username": user.username},
        }

        async def insert() -> None:
            await self._require_room(user)
            await self._mongo.write.circles.insert_one(document)

        for attempt in range(_CODE_ATTEMPTS):
            document["invite_code"] = rules.new_invite_code()
            try:
                await self._mongo.transaction(insert)
                break
            except DuplicateKeyError:
                if attempt == _CODE_ATTEMPTS - 1:
                    raise
        await self._changed(document)
        return full(document, user)

    async def listed(self, user: User, *, skip: int, limit: int, cursor: str | None) -> bytes:
        """The user's circles, newest created first, each with the time of its newest post; as JSON."""
        return (await self._listed(user.id, skip=skip, limit=limit, cursor=cursor)).body

    async def last_activity(self, circle_ids: list[str]) -> dict[str, Any]:
        """The time of each circle's newest post: one query, one index key a circle."""
        if not circle_ids:
            return {}
        newest = [
            {
                "$unionWith": {
                    "coll": "posts",
                    "pipeline": [
                        {"$match": {"circle_ids": circle_id}},
                        {"$sort": {"created_at": -1, "_id": -1}},
                        {"$limit": 1},
                        {"$project": {"_id": 0, "circle": {"$literal": circle_id}, "at": "$created_at"}},
                    ],
                }
            }
            for circle_id in circle_ids
        ]
        # An aggregation must start somewhere: a limit of nothing from the circles themselves.
        start: list[dict[str, Any]] = [{"$match": {"_id": {"$in": []}}}]
        rows = await aggregated(self._mongo.read.circles, [*start, *newest])
        return {row["circle"]: row["at"] for row in rows}

    async def preview(self, user: User, code: str) -> dict[str, Any]:
        """What somebody invited may see.

        Raises:
            ApiError: INVALID_INVITE_CODE.
        """
        found = await self._mongo.read.circles.find_one({"invite_code": rules.invite_code(code)})
        if found is None:
            raise _invalid_code()
        return {
            "name": found["name"],
            "color": found["color"],
            "emoji": found.get("emoji"),
            "memberCount": len(found["members"]),
            "maxMembers": found["max_members"],
            "isFull": len(found["members"]) >= found["max_members"],
            "alreadyMember": is_member(found, user.id),
            "createdAt": iso(found["created_at"]),
        }

    async def join(self, user: User, code: str) -> dict[str, Any]:
        """Become a member.

        Raises:
            ApiError: CIRCLE_LIMIT_REACHED, INVALID_INVITE_CODE, ALREADY_MEMBER or CIRCLE_FULL.
        """

        async def enter() -> dict[str, Any]:
            circles = self._mongo.write.circles
            await self._require_room(user)
            found = await circles.find_one({"invite_code": code})
            if found is None:
                raise _invalid_code()
            if is_member(found, user.id):
                raise ApiError(409, "You are in that circle already", code="ALREADY_MEMBER")
            if len(found["members"]) >= found["max_members"]:
                raise ApiError(409, "That circle is full", code="CIRCLE_FULL")
            joined: dict[str, Any] = await circles.find_one_and_update(
                {"_id": found["_id"]},
                {"$push": {"members": _member(user)}, "$inc": {"member_count": 1}},
                return_document=ReturnDocument.AFTER,
            )
            return joined

        joined = await self._mongo.transaction(enter)
        await self._changed(joined)
        return full(joined, user)

    async def get(self, user: User, circle_id: str) -> dict[str, Any]:
        """One circle of the user's.

        Raises:
            ApiError: CIRCLE_NOT_FOUND, for unknown, malformed and other people's alike.
        """
        found = await self._mongo.read.circles.find_one(_mine(user, circle_id))
        if found is None:
            raise not_found()
        return full(found, user)

    async def update(self, user: User, circle_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Change name, description, colour or emoji; nothing to change just reads.

        Raises:
            ApiError: CIRCLE_NOT_FOUND.
        """
        if not changes:
            return await self.get(user, circle_id)
        return full(await self._updated(user, circle_id, {"$set": changes}), user)

    async def regenerate_invite(self, user: User, circle_id: str) -> str:
        """A new invite code; the old one is dead at once.

        Raises:
            ApiError: CIRCLE_NOT_FOUND.
        """
        for attempt in range(_CODE_ATTEMPTS):
            code = rules.new_invite_code()
            try:
                await self._updated(user, circle_id, {"$set": {"invite_code": code}})
            except DuplicateKeyError:
                if attempt == _CODE_ATTEMPTS - 1:
                    raise
            else:
                return code
        raise AssertionError("unreachable")

    async def vote_to_delete(self, user: User, circle_id: str) -> dict[str, Any]:
        """Vote; the vote that makes it unanimous removes the circle, and takes its id out of every post.

        Raises:
            ApiError: CIRCLE_NOT_FOUND.
        """

        async def vote() -> tuple[dict[str, Any], bool]:
            circles, posts = self._mongo.write.circles, self._mongo.write.posts
            voted = await circles.find_one_and_update(
                _mine(user, circle_id),
                {"$addToSet": {"deletion_votes": user.id}},
                return_document=ReturnDocument.AFTER,
            )
            if voted is None:
                raise not_found()
            members = {member["user_id"] for member in voted["members"]}
            if not members <= set(voted["deletion_votes"]):
                return voted, False
            await circles.delete_one({"_id": voted["_id"]})
            here = {"circle_ids": str(voted["_id"])}
            alone = {"circle_ids": [str(voted["_id"])]}
            await posts.update_many(alone, {"$set": {"visibility": "private"}, "$unset": {"circle_ids": ""}})
            await posts.update_many(here, {"$pull": here})
            return voted, True

        voted, deleted = await self._mongo.transaction(vote)
        await self._changed(voted)
        return _votes(voted, user, deleted=deleted)

    async def take_back_vote(self, user: User, circle_id: str) -> dict[str, Any]:
        """Take one's vote back.

        Raises:
            ApiError: CIRCLE_NOT_FOUND or NO_VOTE.
        """
        circles = self._mongo.write.circles
        left = await circles.find_one_and_update(
            {**_mine(user, circle_id), "deletion_votes": user.id},
            {"$pull": {"deletion_votes": user.id}},
            return_document=ReturnDocument.AFTER,
        )
        if left is None:
            if await circles.find_one(_mine(user, circle_id), {"_id": 1}) is None:
                raise not_found()
            raise ApiError(400, "You have not voted", code="NO_VOTE")
        await self._changed(left)
        return _votes(left, user, deleted=False)

    async def _updated(self, user: User, circle_id: str, update: dict[str, Any]) -> dict[str, Any]:
        updated: dict[str, Any] | None = await self._mongo.write.circles.find_one_and_update(
            _mine(user, circle_id), update, return_document=ReturnDocument.AFTER
        )
        if updated is None:
            raise not_found()
        await self._changed(updated)
        return updated

    async def _require_room(self, user: User) -> None:
        # Writing to the user's own document makes two overlapping joins of one person conflict, so that the second
        # counts after the first: the count alone would let both through.
        await self._mongo.write.users.update_one({"_id": ObjectId(user.id)}, {"$inc": {"circle_changes": 1}})
        count = await self._mongo.write.circles.count_documents({"members.user_id": user.id}, limit=rules.MOST_CIRCLES)
        if count >= rules.MOST_CIRCLES:
            raise ApiError(403, f"You are in {rules.MOST_CIRCLES} circles already", code="CIRCLE_LIMIT_REACHED")

    async def _changed(self, circle: dict[str, Any]) -> None:
        people = (f"circles:{member['user_id']}" for member in circle["members"])
        await self._cache.invalidate_tags(circle_tag(str(circle["_id"])), *people)


def full(circle: dict[str, Any], user: User) -> dict[str, Any]:
    """A circle as its members see it; the snake-case keys are what older clients read."""
    votes = circle.get("deletion_votes") or []
    identifier = str(circle["_id"])
    return {
        "circleId": identifier,
        "_id": identifier,
        "name": circle["name"],
        "description": circle.get("description"),
        "color": circle["color"],
        "emoji": circle.get("emoji"),
        "inviteCode": circle["invite_code"],
        "invite_code": circle["invite_code"],
        "members": [
            {
                "userId": member["user_id"],
                "user_id": member["user_id"],
                "username": member["username"],
                "joinedAt": iso(member["joined_at"]),
                "joined_at": iso(member["joined_at"]),
            }
            for member in circle["members"]
        ],
        "memberCount": len(circle["members"]),
        "maxMembers": circle["max_members"],
        "deletionVotes": len(votes),
        "deletion_votes": [{"user_id": voter} for voter in votes],
        "myDeletionVote": user.id in votes,
        "createdAt": iso(circle["created_at"]),
        "createdBy": {"userId": circle["created_by"]["user_id"], "username": circle["created_by"]["username"]},
    }


def item(circle: dict[str, Any], last_activity: Any) -> dict[str, Any]:
    """A circle as one's list has it."""
    identifier = str(circle["_id"])
    return {
        "circleId": identifier,
        "_id": identifier,
        "name": circle["name"],
        "description": circle.get("description"),
        "color": circle["color"],
        "emoji": circle.get("emoji"),
        "memberCount": len(circle["members"]),
        "maxMembers": circle["max_members"],
        "lastActivityAt": iso(last_activity),
    }


def is_member(circle: dict[str, Any], user_id: str) -> bool:
    return any(member["user_id"] == user_id for member in circle["members"])


def not_found() -> ApiError:
    return ApiError(404, "There is no such circle of yours", code="CIRCLE_NOT_FOUND")


def _invalid_code() -> ApiError:
    return ApiError(404, "That invite code opens no circle", code="INVALID_INVITE_CODE")


def _mine(user: User, circle_id: str) -> dict[str, Any]:
    identifier = ObjectId(circle_id) if ObjectId.is_valid(circle_id) else None
    return {"_id": identifier, "members.user_id": user.id}


def _member(user: User) -> dict[str, Any]:
    return {"user_id": user.id, "username": user.username, "joined_at": now()}


def _votes(circle: dict[str, Any], user: User, *, deleted: bool) -> dict[str, Any]:
    return {
        "votesNeeded": len(circle["members"]),
        "votesCast": len(circle["deletion_votes"]),
        "yourVote": user.id in circle["deletion_votes"],
        "deleted": deleted,
    }
