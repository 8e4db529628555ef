"""The dashboard in a real browser: Debian's Chromium, headless, against a service on real servers with real traffic."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest
from httpx import AsyncClient
from playwright.async_api import Browser, Page, async_playwright, expect
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from smriti_scale.events import BreakerChanged, Events, SlowQuery, TaskDead
from smriti_scale.monitoring import Finding, Monitoring, SLOStatus, loopback_only, setup_dashboard
from smriti_scale.scale import Scale
from tests.monitoring.dashboard_serving import TOKEN, Served, served
from tests.monitoring.dashboard_shop import settings_of, shop, visit

pytestmark = pytest.mark.long

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "the browser tests need Chromium: apt-get install chromium"
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        await opened.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that must not complain: neither scripts nor the content security policy."""
    opened = await browser.new_page(viewport={"width": 1280, "height": 900})
    complaints = watched(opened)
    yield opened
    assert complaints == []


def watched(page: Page) -> list[str]:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


@pytest.fixture
async def scale(mongo_uri: str, redis_url: str, mongo_database_name: str) -> Scale:
    return Scale(settings_of(mongo_uri, redis_url, mongo_database_name))


@pytest.fixture
async def server(scale: Scale) -> AsyncIterator[Served]:
    async with served(shop(scale)) as running:
        async with AsyncClient(base_url=running.url, timeout=30) as client:
            await visit(client)
        yield running


# --- the figures are those of /metrics


Scraped = dict[str, list[tuple[dict[str, str], float]]]


async def scrape(url: str) -> Scraped:
    async with AsyncClient(base_url=url, timeout=30) as client:
        text = (await client.get("/metrics")).text
    found: Scraped = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(scraped: Scraped, name: str, **labels: str) -> float:
    """PromQL's `sum(name{labels})`; a label's value that begins with ~ is a prefix."""
    return sum(
        value
        for found, value in scraped.get(name, [])
        if all(
            found[key].startswith(want[1:]) if want[:1] == "~" else found[key] == want for key, want in labels.items()
        )
    )


def quantile(scraped: Scraped, name: str, q: float, **labels: str) -> float | None:
    """PromQL's `histogram_quantile(q, sum by (le) (name_bucket{labels}))`, worked out anew."""
    counts: dict[float, float] = {}
    for found, value in scraped.get(f"{name}_bucket", []):
        if all(found[key] == want for key, want in labels.items()):
            counts[float(found["le"])] = counts.get(float(found["le"]), 0.0) + value
    bounds = sorted(counts)
    if not bounds or not counts[bounds[-1]]:
        return None
    rank = q * counts[bounds[-1]]
    at = next(place for place, bound in enumerate(bounds) if counts[bound] >= rank)
    if bounds[at] == math.inf:
        return bounds[at - 1]
    lower, below = (bounds[at - 1], counts[bounds[at - 1]]) if at else (0.0, 0.0)
    return lower + (bounds[at] - lower) * (rank - below) / (counts[bounds[at]] - below)


def count(value: float) -> str:
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds == 0:
        return "0 ms"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{math.floor(seconds * 1000 + 0.5)} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def percent(part: float, whole: float = 1.0) -> str:
    if not whole:
        return "–"
    value = part / whole * 100
    return f"{value:.0f} %" if value in (0, 100) else f"{value:.2f} %" if value < 1 else f"{value:.1f} %"


def size(value: float) -> str:
    unit, value = ("GiB", value / 2**30) if value >= 2**30 else ("MiB", value / 2**20)
    return f"{value:.1f} {unit}" if value < 10 else f"{math.floor(value + 0.5)} {unit}"


async def table(page: Page, selector: str) -> dict[str, list[str]]:
    """The rows of a table by their heads, as one reads them."""
    rows: list[list[str]] = await page.locator(f"{selector} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    return {row[0]: row[1:] for row in rows}


async def stats(page: Page, selector: str) -> dict[str, str]:
    pairs: list[list[str]] = await page.locator(f"{selector} > div").evaluate_all(
        "boxes => boxes.map(box => [...box.children].map(child => child.textContent))"
    )
    return dict(tuple(pair) for pair in pairs)  # type: ignore[misc]


async def cards(page: Page) -> dict[str, str]:
    pairs: list[list[str]] = await page.locator("#numbers > li").evaluate_all(
        "cards => cards.map(card => ['.title', '.value'].map(part => card.querySelector(part).textContent))"
    )
    return dict(tuple(pair) for pair in pairs)  # type: ignore[misc]


def expected(scraped: Scraped, cache: str) -> dict[str, Any]:
    """What the page must say, from what `/metrics` says."""
    http, took = "scale_http_requests_total", "scale_http_request_duration_seconds"
    requests, errors = total(scraped, http), total(scraped, http, status="~5")
    routes = {}
    for method, route in {(labels["method"], labels["route"]) for labels, _ in scraped[http]}:
        one = {"method": method, "route": route}
        asked, failed = total(scraped, http, **one), total(scraped, http, **one, status="~5")
        routes[f"{method}{route}"] = [
            count(asked),
            duration(quantile(scraped, took, 0.5, **one)),
            duration(quantile(scraped, took, 0.95, **one)),
            percent(failed, asked),
        ]
    query = "scale_mongo_command_duration_seconds"
    commands = {
        f"{labels['collection'] or '(none)'}{labels['command']}": [
            count(value),
            duration(total(scraped, f"{query}_sum", **labels) / value),
            duration(quantile(scraped, query, 0.95, **labels)),
            count(total(scraped, "scale_mongo_command_errors_total", **labels)),
        ]
        for labels, value in scraped[f"{query}_count"]
        if value
    }
    tiers = {
        tier: total(scraped, "scale_cache_requests_total", cache=cache, result=result)
        for tier, result in (("memory", "hit_memory"), ("Redis", "hit_redis"), ("stale", "stale"), ("miss", "miss"))
    }
    calls = {
        labels["user"]: [count(value), duration(quantile(scraped, "scale_redis_call_duration_seconds", 0.95, **labels))]
        for labels, value in scraped["scale_redis_call_duration_seconds_count"]
        if value
    }
    pools = [
        f"{count(total(scraped, 'scale_mongo_pool_connections', node=labels['node'], state='in_use'))}"
        f" of {count(value)} in use"
        for labels, value in scraped["scale_mongo_pool_limit"]
    ]
    return {
        "routes": routes,
        "traffic": [
            count(requests),
            percent(errors, requests),
            duration(quantile(scraped, took, 0.5)),
            duration(quantile(scraped, took, 0.95)),
        ],
        "commands": commands,
        "cache": [percent(sum(tiers.values()) - tiers["miss"], sum(tiers.values()))]
        + [f"{count(value)} {tier}" for tier, value in tiers.items()],
        "limited": [
            count(total(scraped, "scale_limit_decisions_total", route="/limited", outcome=outcome))
            for outcome in ("allowed", "refused")
        ],
        "redis": calls,
        "pools": pools,
        "latency": duration(quantile(scraped, took, 0.95)),
        "errors": percent(errors, requests),
        "cpu": percent(total(scraped, "scale_cpu_used_ratio")),
        "memory": " of ".join(size(total(scraped, f"scale_memory_{which}_bytes")) for which in ("used", "limit")),
    }


async def shown(page: Page) -> dict[str, Any]:
    """What the page says."""
    traffic = await stats(page, "#traffic-stats")
    words = await page.locator("#caches-list > li", has_not_text="HTTP answers").locator(".words").text_content()
    big = await page.locator("#caches-list > li", has_not_text="HTTP answers").locator(".big").text_content()
    nodes = await page.locator("#mongo-nodes .words").all_text_contents()
    numbers, instance = await cards(page), await stats(page, "#instance-stats")
    limits = await table(page, "#limits")
    return {
        "routes": {
            name: [cells[1], cells[2], cells[3], cells[5]] for name, cells in (await table(page, "#routes")).items()
        },
        "traffic": [traffic[name] for name in ("Counted", "Errors", "Median", "95 % under")],
        "commands": await table(page, "#mongo-commands"),
        "cache": [big, *(words or "").split(" · ")[:4]],
        "limited": next(cells[:2] for name, cells in limits.items() if name.endswith("/limited")),
        "redis": {name: [cells[0], cells[2]] for name, cells in (await table(page, "#redis-users")).items()},
        "pools": [words.partition(",")[0] for words in nodes],
        "latency": numbers["Latency p95"],
        "errors": numbers["Errors"],
        "cpu": instance["CPU"],
        "memory": instance["Memory"],
    }


async def test_the_figures_on_the_page_are_those_of_metrics(scale: Scale, server: Served, page: Page) -> None:
    monitoring = scale.monitoring
    assert monitoring is not None
    await page.goto(f"{server.url}/_scale/")
    await page.get_by_role("radio", name="Since start").check()
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    await expect(page.locator("#over")).to_have_text("Figures below count since the start.")
    for _ in range(20):  # the page lags a moment behind, and pools and memory move
        await monitoring.look()
        await asyncio.to_thread(monitoring.evaluator.tick)
        await asyncio.sleep(2.5)
        wanted, found = expected(await scrape(server.url), scale.settings.namespace), await shown(page)
        if found == wanted:
            break
    assert found == wanted
    assert found["routes"]["GET/broken"][3] == "100 %"
    assert found["limited"] == ["3", "2"]
    assert len(found["routes"]) == 7

    slow = page.locator("#slow-list > li", has_text="find posts {author: ?} sort {number: -1}")
    await expect(slow.locator(".index")).to_contain_text("Index('author', ('number', -1))")
    await expect(slow.locator(".words")).to_contain_text("5×")


async def test_the_page_follows_the_traffic_without_being_reloaded(server: Served, page: Page) -> None:
    await page.goto(f"{server.url}/_scale/")
    route = page.locator("#routes tbody tr", has_text="/report").locator("td").nth(1)
    await expect(route).to_have_text("1")
    async with AsyncClient(base_url=server.url, timeout=30) as client:
        await asyncio.gather(*(client.get("/report") for _ in range(4)))
    await expect(route).to_have_text("5", timeout=15_000)


async def test_the_page_asks_nobody_but_its_own_server(server: Served, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(f"{server.url}/_scale/")
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    assert len(asked) >= 4
    assert [url for url in asked if not url.startswith(f"{server.url}/_scale/")] == []


# --- a made-up state, for what a healthy service does not show


class Statuses:
    """An evaluator that says what it was told."""

    def __init__(self, *statuses: SLOStatus) -> None:
        self._statuses = statuses

    def statuses(self) -> tuple[SLOStatus, ...]:
        return self._statuses


def missed(name: str, value: float | None, threshold: float, *, unit: Any, budget: float, burn: float) -> SLOStatus:
    return SLOStatus(
        name=name,
        title=f"the objective of {name}",
        unit=unit,
        objective=0.99,
        threshold=threshold,
        value=value,
        met=None if value is None else value < threshold,
        budget_left=budget,
        burn={"5m": burn, "1h": burn / 2, "6h": 0.2},
        alert="page" if burn > 14 else None,
        history=tuple((1_700_000_000.0 + 30 * n, None if n == 4 else threshold * n / 8) for n in range(12)),
    )


@pytest.fixture
async def troubled() -> AsyncIterator[Served]:
    """A page with everything on it, and much of it bad."""
    events = Events()
    monitoring = Monitoring(events=events, advice=lambda: [{"title": "Add an instance", "text": "CPU is short."}])
    monitoring.evaluator = Statuses(  # type: ignore[assignment]
        missed("latency", 0.431, 0.2, unit="seconds", budget=0.2, burn=7.0),
        missed("errors", 0.071, 0.01, unit="ratio", budget=-0.4, burn=21.0),
        missed("database", 0.0031, 0.1, unit="seconds", budget=1.0, burn=0.0),
        missed("memory", None, 0.8, unit="ratio", budget=1.0, burn=0.0),
        missed("cpu", 0.42, 0.7, unit="ratio", budget=0.97, burn=0.1),
    )
    app = Starlette()
    setup_dashboard(app, monitoring, allow=loopback_only, title="Shop", interval=0.2)
    await monitoring.look()  # what follows is new
    for severity, title in (("page", "Errors burn the budget"), ("ticket", "Latency burns the budget")):
        monitoring.alerts.raise_alert(Finding(title, severity, title, "for a while"))  # type: ignore[arg-type]
    monitoring.alerts.observe()
    events.emit(BreakerChanged("redis", "open", "ConnectionError"))
    events.emit(SlowQuery("shop", "posts", "find posts {author: ?}", 812.0, 20, "Index('author')"))
    events.emit(TaskDead("mail.send", "default", "failed"))
    metrics = monitoring.metrics
    metrics.http_requests["GET", "/posts/{number}", "500"].inc(3)
    metrics.http_duration["GET", "/posts/{number}"].observe(0.4)
    metrics.mongo_duration["posts", "find"].observe(0.2)
    metrics.mongo_pool["db-1:27017", "in_use"].set(49)
    metrics.mongo_pool["db-1:27017", "idle"].set(1)
    metrics.mongo_pool_limit[("db-1:27017",)].set(50)
    metrics.mongo_pool_waiting[("db-1:27017",)].set(3)
    metrics.cache_requests["shop", "post", "miss"].inc(3)
    metrics.limit_decisions["5 per 1 minute", "/signup", "refused", ""].inc(3)
    metrics.queue_depth[("default",)].set(4)
    metrics.queue_age[("default",)].set(400)
    metrics.tasks_dead.set(2)
    metrics.task_outcomes["mail.send", "default", "failed"].inc()
    async with served(app) as running:
        yield running


async def test_what_is_wrong_is_said_in_words_and_signs(troubled: Served, page: Page) -> None:
    await page.goto(f"{troubled.url}/_scale/")
    await expect(page.locator("h1")).to_have_text(
        "2 of 5 objectives are missed: Latency p95 and Errors. 2 alerts are active."
    )
    await expect(page).to_have_title("✕ Shop")
    await expect(page.locator("#said")).to_contain_text("2 of 5 objectives are missed")
    badges = await page.locator("#numbers .badge").all_text_contents()
    assert badges == ["✕ Missed", "✕ Missed", "✓ Met", "○ No data", "✓ Met"]
    await expect(page.locator("#numbers")).to_contain_text("Budget overspent by 40 %")
    alerts = page.locator("#alerts > li")
    await expect(alerts.first).to_contain_text("▲ Page")
    await expect(alerts.nth(1)).to_contain_text("● Ticket")
    await expect(page.locator("#redis-breakers")).to_contain_text("✕ redis: circuit open")
    await expect(page.locator("#mongo-nodes")).to_contain_text("49 of 50 in use, 1 idle · 3 waiting")
    await expect(page.locator("#advice")).to_contain_text("Add an instance")


async def test_a_screen_reader_hears_changes_only(troubled: Served, page: Page) -> None:
    await page.goto(f"{troubled.url}/_scale/")
    await expect(page.locator("#said")).not_to_be_empty()
    heard = await page.evaluate(
        """() => new Promise((done) => {
          let heard = 0, drawn = 0;
          new MutationObserver((changes) => { heard += changes.length; })
            .observe(document.querySelector("#said"), { childList: true, characterData: true, subtree: true });
          const source = new EventSource("live");
          source.onmessage = () => { if (++drawn === 5) { source.close(); done(heard); } };
        })"""
    )
    assert heard == 0
    assert await page.locator("[aria-live=assertive], [role=alert]").count() == 0


# --- accessible


AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


async def axe(page: Page) -> list[str]:
    """What axe-core finds wrong, one line each."""
    await page.evaluate(AXE)
    results = await page.evaluate("() => axe.run(document, { resultTypes: ['violations', 'incomplete'] })")
    assert len(results["passes"]) > 15, "axe looked at next to nothing"
    return [
        f"{found['id']}: {node['html']} {node.get('failureSummary', '')}"
        for found in results["violations"]
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_axe_finds_nothing_wrong(troubled: Served, browser: Browser, scheme: Any, width: int) -> None:
    page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    await page.goto(f"{troubled.url}/_scale/")
    await expect(page.locator("#routes")).to_be_visible()
    assert await axe(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_wrong_with_a_healthy_service_either(
    server: Served, browser: Browser, scheme: Any
) -> None:
    page = await browser.new_page(color_scheme=scheme)
    await page.goto(f"{server.url}/_scale/")
    await expect(page.locator("#caches")).to_be_visible()
    assert await axe(page) == []


async def test_the_login_is_accessible_and_leads_to_the_page_and_out_again(browser: Browser) -> None:
    app = Starlette()
    setup_dashboard(app, Monitoring(), token=TOKEN, interval=0.2)
    async with served(app) as running:
        page = await browser.new_page(viewport={"width": 360, "height": 700})
        await page.goto(f"{running.url}/_scale")
        await expect(page.get_by_label("Token")).to_be_focused()
        assert await axe(page) == []
        await page.get_by_label("Token").fill("not the token at all")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        assert await axe(page) == []
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator("#live")).to_have_text("Live")
        assert TOKEN not in page.url
        assert await page.evaluate("document.cookie") == ""
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Token")).to_be_visible()


async def test_everything_can_be_done_by_keyboard_and_keeps_the_focus(troubled: Served, page: Page) -> None:
    await page.goto(f"{troubled.url}/_scale/")
    await expect(page.locator("#routes")).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the figures")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("radio", name="5 min")).to_be_focused()
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("radio", name="1 hour")).to_be_checked()
    await page.keyboard.press("Tab")
    theme = page.get_by_role("button", name="Theme")
    await expect(theme).to_be_focused()
    for name in ("light", "dark", "auto"):
        await page.keyboard.press("Enter")
        await expect(theme).to_have_accessible_name(f"Theme: {name}")
    await page.get_by_role("button", name="Rate").focus()
    await page.keyboard.press("Enter")
    heads = page.locator("#routes thead th")
    await expect(heads.nth(1)).to_have_attribute("aria-sort", "descending")
    await page.keyboard.press("Enter")
    await expect(heads.nth(1)).to_have_attribute("aria-sort", "ascending")
    at = await page.locator("body").evaluate("() => new Promise(done => setTimeout(done, 700)).then(() => 1)")
    assert at == 1  # some snapshots later
    await expect(page.get_by_role("button", name="Rate")).to_be_focused()


async def test_theme_and_window_are_kept_and_colours_follow(troubled: Served, browser: Browser) -> None:
    page = await browser.new_page(color_scheme="dark")
    await page.goto(f"{troubled.url}/_scale/")

    async def background() -> str:
        colour: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    dark = await background()
    await page.get_by_role("button", name="Theme").click()
    light = await background()
    assert light != dark
    await page.get_by_role("radio", name="Since start").check()
    await page.reload()
    assert await background() == light
    await expect(page.get_by_role("radio", name="Since start")).to_be_checked()
    await expect(page.locator("#over")).to_have_text("Figures below count since the start.")
    await page.get_by_role("button", name="Theme").click()
    assert await background() == dark


async def test_on_a_phone_nothing_is_cut_off(troubled: Served, browser: Browser) -> None:
    page = await browser.new_page(viewport={"width": 360, "height": 740})
    await page.goto(f"{troubled.url}/_scale/")
    await expect(page.locator("#routes")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    smallest = await page.evaluate(
        """() => Math.min(...[...document.querySelectorAll("main *")]
          .filter((node) => node.checkVisibility())
          .filter((node) => [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim()))
          .map((node) => parseFloat(getComputedStyle(node).fontSize)))"""
    )
    assert smallest >= 10.5


async def test_nothing_moves_for_those_who_asked_for_stillness(troubled: Served, browser: Browser) -> None:
    for motion, moves in (("no-preference", True), ("reduce", False)):
        page = await browser.new_page(reduced_motion=motion)  # type: ignore[arg-type]
        await page.goto(f"{troubled.url}/_scale/")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        running = await page.evaluate("document.getAnimations().filter((one) => one.playState === 'running').length")
        assert (running > 0) == moves


# --- live


def dashboard_on(title: str = "Shop") -> Starlette:
    app = Starlette()
    setup_dashboard(app, Monitoring(), allow=loopback_only, title=title, interval=0.2, stream_seconds=2.0)
    return app


async def test_a_lost_connection_is_told_and_comes_back_by_itself(browser: Browser) -> None:
    page = await browser.new_page()
    async with served(dashboard_on()) as first:
        port = int(first.url.rpartition(":")[2])
        await page.goto(f"{first.url}/_scale/")
        await expect(page.locator("#live-text")).to_have_text("Live")
    await expect(page.locator("#live-text")).to_contain_text("Stale since", timeout=30_000)
    await expect(page.locator("#said")).to_have_text("The figures are stale: no connection.")
    assert await page.evaluate("document.body.dataset.state") == "stale"
    async with served(dashboard_on("Shop again"), port=port):
        await expect(page.locator("#live-text")).to_have_text("Live", timeout=30_000)
        await expect(page.locator("#name")).to_have_text("Shop again")


async def test_a_stream_that_ended_is_opened_again_before_anything_is_stale(browser: Browser) -> None:
    page = await browser.new_page()
    async with served(dashboard_on()) as running:
        opened: list[str] = []
        page.on("request", lambda request: opened.append(request.url) if "/live" in request.url else None)
        states: list[str] = []
        await page.expose_function("told", lambda state: states.append(state))  # noqa: PLW0108 - no built-in
        await page.goto(f"{running.url}/_scale/")
        await page.evaluate(
            """() => new MutationObserver(() => told(document.querySelector("#live").dataset.state))
              .observe(document.querySelector("#live"), { attributes: true })"""
        )
        while len(opened) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert "stale" not in states
        await expect(page.locator("#live-text")).to_have_text("Live")


async def test_when_there_are_too_many_streams_the_page_asks_now_and_then(browser: Browser) -> None:
    app = Starlette()
    setup_dashboard(app, Monitoring(), allow=loopback_only, interval=0.2, max_streams=0)
    async with served(app) as running:
        page = await browser.new_page()
        await page.goto(f"{running.url}/_scale/")
        await expect(page.locator("#live-text")).to_have_text("Live", timeout=15_000)
        assert json.loads(await (await page.request.get(f"{running.url}/_scale/data.json")).text())["title"]


async def test_a_login_that_ended_leads_back_to_the_form(browser: Browser) -> None:
    app = Starlette()
    setup_dashboard(app, Monitoring(), token=TOKEN, interval=0.2, session_seconds=3.0, stream_seconds=1.0)
    async with served(app) as running:
        page = await browser.new_page()
        await page.goto(f"{running.url}/_scale/")
        await page.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-text")).to_have_text("Live")
        await expect(page.get_by_label("Token")).to_be_visible(timeout=30_000)
