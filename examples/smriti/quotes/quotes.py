"""The user_daily_quotes collection: one quote a day for everybody, at a moment of their own day."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from examples.smriti.answers import iso
from examples.smriti.auth.accounts import User, now
from examples.smriti.lists import aggregated
from examples.smriti.notifications.devices import Devices
from examples.smriti.notifications.push import Message, Pusher
from examples.smriti.posts.posts import PUBLIC
from examples.smriti.quotes.day import day_of, push_moment
from examples.smriti.quotes.excerpt import excerpt
from smriti_scale.mongo import MongoClients

_BATCH = 500
_MOST_PUSHES = 1_000
_CLAIM = timedelta(minutes=5)
_POOL = 1_000
_SAMPLE = 10
_BODY = 100


@dataclass(slots=True)
class Initialized:
    initialized_count: int = 0
    skipped_count: int = 0
    error_count: int = 0


@dataclass(slots=True)
class Pushed:
    processed_count: int = 0
    sent_count: int = 0
    no_quote_count: int = 0
    no_tokens_count: int = 0
    error_count: int = 0


class Quotes:
    """Today's quote, its history, and the two jobs that make it come.

    Args:
        mongo: clients for writing and reading.
        devices: whom to push to.
        pusher: how.
        chance: draws moments and quotes.
    """

    def __init__(
        self, mongo: MongoClients, devices: Devices, pusher: Pusher, *, chance: random.Random | None = None
    ) -> None:
        self._mongo = mongo
        self._devices = devices
        self._pusher = pusher
        self._chance = chance or random.SystemRandom()

    async def today(self, user: User) -> dict[str, Any]:
        """What there is of the present day's quote."""
        day = day_of(datetime.now(UTC), timezone=user.timezone, location=user.location)
        record = await self._mongo.read.user_daily_quotes.find_one({"user_id": user.id, "day_key": day.key})
        if record is None or not record["push_sent"]:
            return _no_quote("pending", "Today's quote is on its way")
        if not record.get("quote_text"):
            return _no_quote("unavailable", "There is no quote today")
        return {"has_quote": True, "status": "delivered", "quote": quote_view(record), "message": None}

    async def initialize(self) -> Initialized:
        """See that everybody has a record for their present day. May run as often as one likes, also at once."""
        counted = Initialized()
        batch: list[UpdateOne] = []
        moment = datetime.now(UTC)
        async for user in self._mongo.read.users.find({}, {"timezone": 1, "location": 1}).hint([("_id", 1)]):
            try:
                batch.append(self._record_for(user, moment))
            except (KeyError, TypeError, ValueError):  # a location from old data that is none
                counted.error_count += 1
            if len(batch) == _BATCH:
                await self._insert(batch, counted)
                batch = []
        if batch:
            await self._insert(batch, counted)
        return counted

    async def push_due(self) -> Pushed:
        """Draw and push what is due, at most 1,000; a record is handled by one run, however many overlap."""
        counted = Pushed()
        claimed = await self._claim()
        if not claimed:
            return counted
        pool = await self._pool()
        devices = await self._devices.of_users({record["user_id"] for record in claimed})
        updates = []
        deliveries: list[tuple[dict[str, Any], str, dict[str, Any]]] = []
        for record in claimed:
            counted.processed_count += 1
            drawn = self._draw(pool)
            updates.append(_sent(record, drawn))
            if drawn is None:
                counted.no_quote_count += 1
            elif not devices.get(record["user_id"]):
                counted.no_tokens_count += 1
            else:
                deliveries.append((record, *drawn))
        await self._mongo.write.user_daily_quotes.bulk_write(updates, ordered=False)
        dead: list[str] = []
        for record, quote, post in deliveries:
            outcome = await self._pusher.send(devices[record["user_id"]], _message(record, quote, post))
            counted.sent_count += outcome.sent > 0
            dead += outcome.dead
        if dead:
            await self._devices.forget(dead)
        return counted

    def _record_for(self, user: dict[str, Any], moment: datetime) -> UpdateOne:
        day = day_of(moment, timezone=user.get("timezone"), location=user.get("location"))
        record = {
            "day_sunrise_utc": day.sunrise,
            "next_sunrise_utc": day.next_sunrise,
            "scheduled_push_time_utc": push_moment(day, moment, chance=self._chance),
            "push_sent": False,
            "push_sent_at_utc": None,
            "quote_text": None,
            "source_post_id": None,
            "source_author_user_id": None,
            "source_author_username": None,
            "created_at_utc": moment,
            "updated_at_utc": moment,
        }
        return UpdateOne({"user_id": str(user["_id"]), "day_key": day.key}, {"$setOnInsert": record}, upsert=True)

    async def _insert(self, batch: Sequence[UpdateOne], counted: Initialized) -> None:
        try:
            result = (await self._mongo.write.user_daily_quotes.bulk_write(list(batch), ordered=False)).bulk_api_result
        except BulkWriteError as error:
            result = dict(error.details)
        # Losing a race against an overlapping run is no error: the record is there.
        raced = sum(failed["code"] == 11000 for failed in result["writeErrors"])
        counted.initialized_count += result["nUpserted"]
        counted.skipped_count += result["nMatched"] + raced
        counted.error_count += len(result["writeErrors"]) - raced

    async def _claim(self) -> list[dict[str, Any]]:
        records = self._mongo.write.user_daily_quotes
        moment = now()
        run = ObjectId()
        free = {"$or": [{"claimed_until": None}, {"claimed_until": {"$lte": moment}}]}
        due = {"push_sent": False, "scheduled_push_time_utc": {"$lte": moment}, **free}
        found = await records.find(due, {"_id": 1}).sort("scheduled_push_time_utc", 1).limit(_MOST_PUSHES).to_list(None)
        if not found:
            return []
        # The condition is repeated: another run may have been quicker since.
        await records.update_many(
            {"_id": {"$in": [each["_id"] for each in found]}, **due},
            {"$set": {"claimed_by": run, "claimed_until": moment + _CLAIM}},
        )
        claimed: list[dict[str, Any]] = await records.find(
            {"_id": {"$in": [each["_id"] for each in found]}, "claimed_by": run}
        ).to_list(None)
        return claimed

    async def _pool(self) -> list[dict[str, Any]]:
        """Random public posts with words in them.

        `$sample` as the first stage reads at random positions, as long as it asks for under a twentieth of the
        collection: no scan. Where that finds too few (a small or mostly private collection), the index of the
        public feed is sampled instead.
        """
        posts = self._mongo.read.posts
        fields = {"title": 1, "text_content": 1, "author": 1}
        usable = {"$match": {**PUBLIC, "$or": [{"title": {"$gt": ""}}, {"text_content": {"$gt": ""}}]}}
        total = await posts.estimated_document_count()
        size = min(_POOL, total // 21)
        if size >= _SAMPLE:
            found = await aggregated(posts, [{"$sample": {"size": size}}, usable, {"$project": fields}])
            if len(found) >= _SAMPLE:
                return found
        return await aggregated(posts, [usable, {"$sample": {"size": _POOL}}, {"$project": fields}])

    def _draw(self, pool: list[dict[str, Any]]) -> tuple[str, dict[str, Any]] | None:
        for post in self._chance.sample(pool, min(_SAMPLE, len(pool))):
            if (quote := excerpt(post.get("title"), post.get("text_content"))) is not None:
                return quote, post
        return None


def quote_view(record: dict[str, Any]) -> dict[str, Any]:
    """A delivered quote as clients see it."""
    return {
        "text": record["quote_text"],
        "author": {"user_id": record["source_author_user_id"], "username": record["source_author_username"]},
        "post_id": record["source_post_id"],
        "day_key": record["day_key"],
        "received_at": iso(record["push_sent_at_utc"]),
    }


def counts(counted: Initialized | Pushed) -> dict[str, int]:
    return asdict(counted)


def _no_quote(status: str, message: str) -> dict[str, Any]:
    return {"has_quote": False, "status": status, "quote": None, "message": message}


def _sent(record: dict[str, Any], drawn: tuple[str, dict[str, Any]] | None) -> UpdateOne:
    moment = now()
    change: dict[str, Any] = {"push_sent": True, "push_sent_at_utc": moment, "updated_at_utc": moment}
    if drawn is not None:
        quote, post = drawn
        change |= {
            "quote_text": quote,
            "source_post_id": str(post["_id"]),
            "source_author_user_id": post["author"]["user_id"],
            "source_author_username": post["author"]["username"],
        }
    return UpdateOne({"_id": record["_id"]}, {"$set": change, "$unset": {"claimed_by": "", "claimed_until": ""}})


def _message(record: dict[str, Any], quote: str, post: dict[str, Any]) -> Message:
    return Message(
        title="Today's quote",
        body=quote if len(quote) <= _BODY else quote[:_BODY] + "...",
        data={
            "type": "today_quote",
            "day_key": record["day_key"],
            "quote_text": quote,
            "post_id": str(post["_id"]),
        },
    )
