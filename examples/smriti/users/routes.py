"""`/api/users`: one's own profile."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from examples.smriti.answers import Failure, iso, success
from examples.smriti.auth.accounts import User
from examples.smriti.auth.signed_in import SignedIn
from examples.smriti.posts.posts import Posts


def user_routes(posts: Posts, signed_in: SignedIn) -> APIRouter:
    """The router, closed over its services."""
    router = APIRouter(prefix="/api/users", tags=["users"], responses={401: {"model": Failure}})

    @router.get("/me")
    async def my_profile(user: Annotated[User, Depends(signed_in)]) -> Response:
        profile = {**profile_of(user), "joined_at": iso(user.created_at), "post_count": await posts.count_of(user.id)}
        return success("Your profile", {"user": profile})

    return router


def profile_of(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "username": user.username,
        "display_name": user.display_name,
        "email": user.email,
        "phone": user.phone,
        "timezone": user.timezone,
        "location": user.location,
        "location_required": user.timezone is None or user.location is None,
    }
