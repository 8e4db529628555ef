"""A tour of a running service over HTTP, as the app would use it: each step with its result and its time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from httpx import AsyncClient, Response

PASSWORD = "a quiet morning"


class TourFailed(Exception):
    """A step did not do what it should."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the tour.

    Args:
        title: what was done.
        result: what came of it, in words.
        ms: how long it took.
        ok: whether it did what it should.
    """

    title: str
    result: str
    ms: float
    ok: bool


class Tour:
    """The steps, in order, sharing what one learns for the next.

    Args:
        client: speaks to the service.
        cron_secret: opens the routes of the daily quotes.
        secondary_reads: how many reads of the posts collection the secondaries have served so far.
        hurry: makes the moment of every prepared quote come now, in place of some time today.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        cron_secret: str,
        secondary_reads: Callable[[], Awaitable[int]],
        hurry: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._cron_secret = cron_secret
        self._secondary_reads = secondary_reads
        self._hurry = hurry
        self._name = f"visitor_{secrets.token_hex(4)}"
        self._post_id = ""

    async def steps(self) -> AsyncIterator[Step]:
        """Walk; a step that fails is the last."""
        walk: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("Health", self._health),
            ("Sign up", self._sign_up),
            ("Write a post", self._post),
            ("Read it back, from a secondary", self._own_write),
            ("Walk the feed by cursor, to the end", self._walk),
            ("Read a page twice: database, then cache", self._cached),
            ("An altered cursor", self._altered_cursor),
            ("Found a circle, and post to it", self._circle),
            ("Upload a document, read by a worker", self._document),
            ("Today's quote", self._quote),
            ("Delete the post", self._delete),
            ("What all this looked like from inside", self._figures),
            ("The sixth sign-up within a minute", self._sixth_sign_up),
        ]
        for title, step in walk:
            started = time.perf_counter()
            try:
                result, ok = await step(), True
            except TourFailed as failed:
                result, ok = str(failed), False
            yield Step(title, result, (time.perf_counter() - started) * 1000, ok)
            if not ok:
                return

    async def _health(self) -> str:
        answer = await self._get("/readyz")
        return f"{answer['status']}: " + ", ".join(
            f"{name} {check['ms']} ms" for name, check in answer["checks"].items()
        )

    async def _sign_up(self) -> str:
        answer = await self._client.post("/api/auth/signup", json=self._account(self._name))
        data = expect(answer, 201)["data"]
        self._client.headers["Authorization"] = f"Bearer {data['token']}"
        return f"201, {data['username']} has a token"

    async def _post(self) -> str:
        form = {"content_type": "note", "title": "First light", "text_content": "Here is what I noticed today."}
        answer = await self._client.post("/api/posts/", data=form)
        self._post_id = expect(answer, 201)["data"]["post"]["postId"]
        return f"201, post {self._post_id}"

    async def _own_write(self) -> str:
        before = await self._secondary_reads()
        own = (await self._get("/api/posts/me"))["data"]["posts"]
        feed = (await self._get("/api/posts?limit=5"))["data"]["posts"]
        reads = await self._secondary_reads() - before
        demand(own and own[0]["postId"] == self._post_id, "the author does not see the post among their own")
        demand(feed[0]["postId"] == self._post_id, "the post is not first in its author's feed")
        demand(reads > 0, "no secondary served a read")
        return f"first among one's own and in the feed; the secondaries served {reads} reads"

    async def _walk(self) -> str:
        seen: list[str] = []
        cursor: str | None = None
        pages = 0
        while True:
            query = {"limit": "100"} | ({"cursor": cursor} if cursor else {})
            data = (await self._get("/api/posts", query))["data"]
            seen += [post["postId"] for post in data["posts"]]
            pages += 1
            cursor = data["next_cursor"]
            if cursor is None:
                break
        demand(len(seen) == len(set(seen)), "a post came twice")
        demand(len(seen) > 1, "the feed is empty")
        return f"{len(seen):,} posts on {pages} pages, none twice"

    async def _cached(self) -> str:
        times = []
        for _ in range(2):
            started = time.perf_counter()
            await self._get("/api/posts", {"limit": "99"})
            times.append((time.perf_counter() - started) * 1000)
        return f"{times[0]:.1f} ms, then {times[1]:.1f} ms"

    async def _altered_cursor(self) -> str:
        cursor = (await self._get("/api/posts", {"limit": "2"}))["data"]["next_cursor"]
        altered = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
        answer = await self._client.get("/api/posts", params={"cursor": altered})
        return f"400: {expect(answer, 400)['error']}"

    async def _circle(self) -> str:
        founded = await self._client.post("/api/circles/", json={"name": "The porch", "emoji": "🌿"})
        circle = expect(founded, 201)["data"]["circle"]
        form = {"content_type": "note", "text_content": "Only for us."}
        where = f"/api/circles/{circle['circleId']}/posts"
        expect(await self._client.post(where, data=form), 201)
        inside = (await self._get(where))["data"]["total"]
        feed = (await self._get("/api/posts", {"limit": "1"}))["data"]["posts"]
        demand(inside == 1, "the circle's feed does not show the post")
        demand(feed[0]["visibility"] == "public", "a circle's post is in the public feed")
        return f"invite code {circle['inviteCode']}; 1 post inside, none of it in the public feed"

    async def _document(self) -> str:
        word = f"petrichor{secrets.token_hex(3)}"
        sent = await self._client.post(
            "/api/posts/",
            data={"content_type": "document", "title": "A letter"},
            files={"document": ("letter.txt", f"The smell of rain on dry earth: {word}.".encode())},
        )
        post = expect(sent, 201)["data"]["post"]
        demand(post["documentStatus"] == "pending", "a new document does not wait for the worker")
        for _ in range(150):
            found = (await self._get("/api/posts/search", {"q": word}))["data"]["posts"]
            if found:
                demand(found[0]["postId"] == post["postId"], "search found another post")
                expect(await self._client.delete(f"/api/posts/{post['postId']}"), 200)
                return f"{found[0]['documentStatus']}: search finds a word inside of it"
            await asyncio.sleep(0.2)
        raise TourFailed("the worker did not read the document within 30 s")

    async def _quote(self) -> str:
        before = await self._get("/api/quotes/today")
        demand(before["status"] in ("pending", "delivered"), "the quote of a new day is neither pending nor there")
        for job in ("init", "push"):
            answer = await self._client.post(
                f"/api/internal/daily-quote-{job}", headers={"X-Cron-Secret": self._cron_secret}
            )
            expect(answer, 200)
            await self._hurry()
        today = await self._get("/api/quotes/today")
        demand(today["has_quote"], "the quote was not delivered")
        return f"{before['status']}, then {today['status']}: {today['quote']['text']}"

    async def _delete(self) -> str:
        expect(await self._client.delete(f"/api/posts/{self._post_id}"), 200)
        feed = (await self._get("/api/posts", {"limit": "5"}))["data"]["posts"]
        demand(all(post["postId"] != self._post_id for post in feed), "the deleted post is still in the feed")
        return "200, and gone from the feed at once"

    async def _figures(self) -> str:
        figures = (await self._client.get("/metrics")).text
        demand('/api/posts/{post_id}"' in figures, "the figures do not count by route")
        page = await self._client.get("/_scale", follow_redirects=True)
        demand(page.status_code == 200, f"the dashboard answered {page.status_code}")
        return (
            f"{sum(not line.startswith('#') for line in figures.splitlines()):,} figures at /metrics, drawn at /_scale"
        )

    async def _sixth_sign_up(self) -> str:
        more = await asyncio.gather(
            *(self._client.post("/api/auth/signup", json=self._account(f"{self._name}_{n}")) for n in range(4))
        )
        for answer in more:
            expect(answer, 201)
        answer = await self._client.post("/api/auth/signup", json=self._account(f"{self._name}_5"))
        body = expect(answer, 429)
        wait = answer.headers.get("Retry-After", "")
        demand(wait.isdigit() and int(wait) >= 1, "the refusal does not say when to come back")
        return f"429: {body['error']}; Retry-After {wait} s"

    def _account(self, name: str) -> dict[str, str]:
        return {"username": name, "password": PASSWORD, "email": f"{name}@example.org"}

    async def _get(self, path: str, query: dict[str, str] | None = None) -> Any:
        return expect(await self._client.get(path, params=query), 200)


def expect(answer: Response, status: int) -> Any:
    """The body of an answer that has the status it should.

    Raises:
        TourFailed: it has another.
    """
    demand(
        answer.status_code == status,
        f"{answer.request.method} {answer.request.url.path} answered {answer.status_code}, "
        f"not {status}: {answer.text[:200]}",
    )
    return answer.json()


def demand(condition: object, otherwise: str) -> None:
    if not condition:
        raise TourFailed(otherwise)
