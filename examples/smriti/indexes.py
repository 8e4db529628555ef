"""Every index Smriti needs, in one place. Each list's index ends in its sort and `_id`."""

from __future__ import annotations

from smriti_scale.mongo import Index, Indexes

INDEXES = Indexes(
    {
        "users": [
            Index("username", unique=True),
            Index("username_key", unique=True, partial={"username_key": {"$type": "string"}}),
            Index("email_key", unique=True, partial={"email_key": {"$type": "string"}}),
            Index("phone_key", unique=True, partial={"phone_key": {"$type": "string"}}),
            Index("email"),
            Index("phone"),
            Index("created_at"),
        ],
        "posts": [
            Index("visibility", ("created_at", -1), ("_id", -1)),
            Index("author.user_id", ("created_at", -1), ("_id", -1)),
        ],
    }
)
