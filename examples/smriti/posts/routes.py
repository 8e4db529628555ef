"""`/api/posts`: write, read the feed, read one's own, delete."""

from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Query, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from examples.smriti.answers import Done, Failure, Success, success, success_bytes
from examples.smriti.auth.accounts import User
from examples.smriti.auth.signed_in import SignedIn
from examples.smriti.lists import Cursor, Limit, Skip
from examples.smriti.posts import drafts
from examples.smriti.posts.batch import Batch, create_all
from examples.smriti.posts.limits import POSTING, counted, posts_in
from examples.smriti.posts.posts import Posts
from examples.smriti.posts.search import Search, query_of
from examples.smriti.posts.views import Created, Feed, OwnPosts
from examples.smriti.settings import SmritiSettings
from smriti_scale.ratelimit import RateLimiter


def post_routes(
    posts: Posts, finder: Search, signed_in: SignedIn, limiter: RateLimiter, settings: SmritiSettings
) -> APIRouter:
    """The router, closed over its services."""
    router = APIRouter(
        prefix="/api/posts",
        tags=["posts"],
        responses={status: {"model": Failure} for status in (400, 401, 429)},
    )
    Me = Annotated[User, Depends(signed_in)]

    @router.post("/", status_code=201, response_model=Success[Created], responses={403: {"model": Failure}})
    @router.post("", status_code=201, include_in_schema=False)
    @limiter.shared_limit(settings.post_limit, scope=POSTING)
    async def create(
        request: Request,
        user: Me,
        content_type: Annotated[str, Form()],
        title: Annotated[str | None, Form()] = None,
        text_content: Annotated[str | None, Form()] = None,
        link_url: Annotated[str | None, Form()] = None,
        visibility: Annotated[str, Form()] = "public",
        circle_ids: Annotated[str, Form()] = "",
        image: Annotated[UploadFile | None, File()] = None,
        document: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        form = drafts.Form(
            content_type=content_type,
            title=title,
            text_content=text_content,
            link_url=link_url,
            visibility=visibility,
            circle_ids=circle_ids,
            image=image,
            document=document,
        )
        return success("Posted", {"post": await posts.create(user, await drafts.checked(form))}, status=201)

    @router.get("/", response_model=Success[Feed])
    @router.get("", include_in_schema=False)
    async def feed(user: Me, skip: Skip = 0, limit: Limit = 50, cursor: Cursor = None) -> Response:
        return success_bytes("The feed", await posts.feed(user, skip=skip, limit=limit, cursor=cursor))

    @router.get("/search")
    async def search(
        user: Me,
        q: Annotated[str | None, Query(max_length=1_000)] = None,
        author_id: Annotated[str | None, Query(max_length=100)] = None,
        content_type: Annotated[str | None, Query(max_length=100)] = None,
        start_date: Annotated[str | None, Query(max_length=100)] = None,
        end_date: Annotated[str | None, Query(max_length=100)] = None,
        skip: Skip = 0,
        limit: Limit = 20,
        cursor: Cursor = None,
    ) -> Response:
        query = query_of(q=q, author_id=author_id, content_type=content_type, start_date=start_date, end_date=end_date)
        return success_bytes("Found", await finder.page(query, user.id, skip=skip, limit=limit, cursor=cursor))

    @router.post("/batch")
    @limiter.shared_limit(settings.post_limit, scope=POSTING, cost=posts_in)
    async def create_batch(request: Request, user: Me, body: Annotated[Batch, Depends(counted)]) -> Response:
        return success("Taken", {"results": await create_all(posts, user, body)})

    @router.get("/me", response_model=Success[OwnPosts])
    async def own(user: Me, skip: Skip = 0, limit: Limit = 20, cursor: Cursor = None) -> Response:
        return success_bytes("Your posts", await posts.own(user, skip=skip, limit=limit, cursor=cursor))

    @router.delete("/{post_id}", response_model=Done, responses={403: {"model": Failure}, 404: {"model": Failure}})
    async def delete(post_id: str, user: Me) -> Response:
        await posts.delete(user, post_id)
        return success("Deleted")

    return router
