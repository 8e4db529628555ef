"""`/api/circles`: private groups, their feeds, and how they end."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, UploadFile
from pydantic import AfterValidator, AliasChoices, BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from examples.smriti.answers import Failure, success, success_bytes
from examples.smriti.auth.accounts import User
from examples.smriti.auth.signed_in import SignedIn
from examples.smriti.circles import rules
from examples.smriti.circles.circles import Circles
from examples.smriti.lists import Cursor, Limit, Skip
from examples.smriti.posts import drafts
from examples.smriti.posts.circle_feed import CircleFeed
from examples.smriti.posts.limits import POSTING
from examples.smriti.posts.posts import Posts
from examples.smriti.settings import SmritiSettings
from smriti_scale.ratelimit import RateLimiter


def _code(value: str) -> str:
    code = rules.invite_code(value)
    if len(code) != rules.CODE_LENGTH:
        raise ValueError(f"an invite code has {rules.CODE_LENGTH} characters")
    return code


def _color(value: str | None) -> str | None:
    return None if value is None else rules.color(value)


def _fits(rule: Callable[[str | None], str | None]) -> Callable[[str | None], str | None]:
    """Check by a rule, but keep the text: an empty one takes the old value away, null leaves it."""

    def check(value: str | None) -> str | None:
        rule(value)
        return value

    return check


class NewCircle(BaseModel):
    name: Annotated[str, AfterValidator(rules.circle_name)]
    description: Annotated[str | None, AfterValidator(rules.description)] = None
    color: Annotated[str | None, AfterValidator(_color)] = None
    emoji: Annotated[str | None, AfterValidator(rules.emoji)] = None


class CircleChanges(BaseModel):
    """What is given changes; what is absent or null stays."""

    name: Annotated[str, AfterValidator(rules.circle_name)] | None = None
    description: Annotated[str | None, AfterValidator(_fits(rules.description))] = None
    color: Annotated[str | None, AfterValidator(_color)] = None
    emoji: Annotated[str | None, AfterValidator(_fits(rules.emoji))] = None

    def changes(self) -> dict[str, Any]:
        given = {name: value for name, value in self.model_dump(exclude_unset=True).items() if value is not None}
        if "description" in given:
            given["description"] = rules.description(given["description"])
        if "emoji" in given:
            given["emoji"] = rules.emoji(given["emoji"])
        return given


class Invitation(BaseModel):
    inviteCode: Annotated[  # noqa: N815
        str, Field(validation_alias=AliasChoices("inviteCode", "invite_code")), AfterValidator(_code)
    ]


def circle_routes(
    circles: Circles,
    posts: Posts,
    circle_feed: CircleFeed,
    signed_in: SignedIn,
    limiter: RateLimiter,
    settings: SmritiSettings,
) -> APIRouter:
    """The router, closed over its services."""
    router = APIRouter(
        prefix="/api/circles",
        tags=["circles"],
        responses={status: {"model": Failure} for status in (400, 401, 403, 404, 409, 429)},
    )
    Me = Annotated[User, Depends(signed_in)]

    @router.post("/", status_code=201)
    @router.post("", status_code=201, include_in_schema=False)
    async def create(body: NewCircle, user: Me) -> Response:
        circle = await circles.create(
            user, name=body.name, description=body.description, color=body.color, emoji=body.emoji
        )
        return success("Circle founded", {"circle": circle}, status=201)

    @router.get("/")
    @router.get("", include_in_schema=False)
    async def mine(
        user: Me, skip: Skip = 0, limit: Annotated[int, Query(ge=1, le=50)] = 20, cursor: Cursor = None
    ) -> Response:
        return success_bytes("Your circles", await circles.listed(user, skip=skip, limit=limit, cursor=cursor))

    @router.get("/preview/{code}")
    async def preview(code: str, user: Me) -> Response:
        found = await circles.preview(user, code)
        return success("An invitation", {"circle": found, **found})

    @router.post("/join", status_code=201)
    async def join(body: Invitation, user: Me) -> Response:
        return success("Welcome", {"circle": await circles.join(user, body.inviteCode)}, status=201)

    @router.post("/join/{code}", status_code=201)
    async def join_by_link(code: Annotated[str, AfterValidator(_code)], user: Me) -> Response:
        return success("Welcome", {"circle": await circles.join(user, code)}, status=201)

    @router.get("/{circle_id}")
    async def one(circle_id: str, user: Me) -> Response:
        return success("The circle", {"circle": await circles.get(user, circle_id)})

    @router.patch("/{circle_id}")
    @router.put("/{circle_id}")
    async def update(circle_id: str, body: CircleChanges, user: Me) -> Response:
        return success("Changed", {"circle": await circles.update(user, circle_id, body.changes())})

    @router.post("/{circle_id}/regenerate-invite")
    async def regenerate(circle_id: str, user: Me) -> Response:
        code = await circles.regenerate_invite(user, circle_id)
        return success("A new invite code", {"inviteCode": code, "invite_code": code})

    @router.get("/{circle_id}/posts")
    async def feed(circle_id: str, user: Me, skip: Skip = 0, limit: Limit = 20, cursor: Cursor = None) -> Response:
        page = await circle_feed.page(user, circle_id, skip=skip, limit=limit, cursor=cursor)
        return success_bytes("The circle's posts", page)

    @router.post("/{circle_id}/posts", status_code=201)
    @limiter.shared_limit(settings.post_limit, scope=POSTING)
    async def post(
        request: Request,
        circle_id: str,
        user: Me,
        content_type: Annotated[str, Form()],
        title: Annotated[str | None, Form()] = None,
        text_content: Annotated[str | None, Form()] = None,
        link_url: Annotated[str | None, Form()] = None,
        image: Annotated[UploadFile | None, File()] = None,
        document: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        form = drafts.Form(
            content_type=content_type,
            title=title,
            text_content=text_content,
            link_url=link_url,
            visibility="circles",
            circle_ids=circle_id,
            image=image,
            document=document,
        )
        draft = await posts.draft_for_circle(circle_id, form)
        return success("Posted", {"post": await posts.create(user, draft)}, status=201)

    @router.post("/{circle_id}/vote-delete")
    async def vote(circle_id: str, user: Me) -> Response:
        return success("Your vote counts", await circles.vote_to_delete(user, circle_id))

    @router.delete("/{circle_id}/vote-delete")
    async def take_back(circle_id: str, user: Me) -> Response:
        return success("Your vote is taken back", await circles.take_back_vote(user, circle_id))

    return router
