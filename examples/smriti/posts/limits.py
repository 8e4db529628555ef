"""How often one may post: one allowance for every way to do it, and a batch counts as what is in it."""

from __future__ import annotations

from starlette.requests import Request

from examples.smriti.posts.batch import Batch

POSTING = "posting"


def counted(request: Request, body: Batch) -> Batch:
    """The batch, its size noted where the limit finds it."""
    request.state.posts = len(body.posts)
    return body


def posts_in(request: Request) -> int:
    size: int = request.state.posts
    return size
