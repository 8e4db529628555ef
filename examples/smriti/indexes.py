"""Every index Smriti needs, in one place. Each list's index ends in its sort and `_id`."""

from __future__ import annotations

from smriti_scale.mongo import Index, Indexes

_NEWEST_FIRST = (("created_at", -1), ("_id", -1))


def _unique_where_present(field: str) -> Index:
    return Index(field, unique=True, partial={field: {"$exists": True}})


INDEXES = Indexes(
    {
        "users": [
            Index("username", unique=True),
            _unique_where_present("username_key"),
            _unique_where_present("email_key"),
            _unique_where_present("phone_key"),
            Index("email"),  # old accounts, which have no key yet
            Index("phone"),
        ],
        "posts": [
            Index("visibility", *_NEWEST_FIRST),  # the public feed
            Index("author.user_id", *_NEWEST_FIRST),  # one's own
            Index("author.user_id", "visibility", *_NEWEST_FIRST),  # somebody else's
            Index("content_type", "visibility", *_NEWEST_FIRST),  # search by kind
            Index("circle_ids", *_NEWEST_FIRST),  # a circle's feed
            Index("document_status", "created_at", partial={"document_status": "pending"}),
            Index(("title", "text"), ("text_content", "text"), ("document_text", "text"), default_language="english"),
        ],
        "circles": [
            Index("invite_code", unique=True),
            Index("members.user_id", *_NEWEST_FIRST),
        ],
        "device_tokens": [
            Index("token", unique=True),
            Index("user_id", *_NEWEST_FIRST),
        ],
        "user_daily_quotes": [
            Index("user_id", ("day_key", -1), unique=True),
            Index("user_id", "push_sent", ("day_key", -1), ("_id", -1)),
            Index("push_sent", "scheduled_push_time_utc"),
        ],
    }
)
