"""`/api/users`: profiles, and the posts of one person."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, Field, model_validator
from starlette.responses import Response

from examples.smriti.answers import Failure, iso, success
from examples.smriti.auth.accounts import User
from examples.smriti.auth.signed_in import SignedIn
from examples.smriti.lists import Cursor, Limit, Skip
from examples.smriti.posts.posts import Posts
from examples.smriti.quotes.day import is_timezone
from examples.smriti.users.users import Users, own_profile, public_profile


def _timezone(name: str | None) -> str | None:
    if name is not None and not is_timezone(name):
        raise ValueError("not an IANA time zone")
    return name


class Place(BaseModel):
    """Where somebody is. Unknown fields are ignored, null means no change."""

    timezone: Annotated[str | None, AfterValidator(_timezone)] = None
    latitude: Annotated[float | None, Field(ge=-90, le=90, allow_inf_nan=False)] = None
    longitude: Annotated[float | None, Field(ge=-180, le=180, allow_inf_nan=False)] = None

    @model_validator(mode="after")
    def _both_or_none(self) -> "Place":
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude come together")
        return self

    @property
    def location(self) -> dict[str, float] | None:
        if self.latitude is None or self.longitude is None:
            return None
        return {"latitude": self.latitude, "longitude": self.longitude}


def user_routes(users: Users, posts: Posts, signed_in: SignedIn) -> APIRouter:
    """The router, closed over its services."""
    router = APIRouter(
        prefix="/api/users",
        tags=["users"],
        responses={status: {"model": Failure} for status in (400, 401, 404, 429)},
    )
    Me = Annotated[User, Depends(signed_in)]

    @router.get("/me")
    async def my_profile(user: Me) -> Response:
        count = await posts.count_of(user.id, own=True)
        profile = {**own_profile(user), "joined_at": iso(user.created_at), "post_count": count}
        return success("Your profile", {"user": profile})

    @router.patch("/me")
    async def move(place: Place, user: Me) -> Response:
        moved = await users.place(user, timezone=place.timezone, location=place.location)
        return success("Your profile", {"user": own_profile(moved)})

    @router.get("/{user_id}")
    async def profile(user_id: str, user: Me) -> Response:
        found = await users.get(user_id)
        count = await posts.count_of(found.id, own=found.id == user.id)
        return success("A profile", {"user": public_profile(found, count)})

    @router.get("/{user_id}/posts")
    async def posts_of(user_id: str, user: Me, skip: Skip = 0, limit: Limit = 20, cursor: Cursor = None) -> Response:
        found = await users.get(user_id)
        return success("Their posts", await posts.of_user(user, found.id, skip=skip, limit=limit, cursor=cursor))

    return router
