"""The built-in web client in a real browser: Debian's Chromium, headless, against the service over HTTP."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient
from playwright.async_api import Page, async_playwright, expect

from tests.examples.smriti.conftest import PASSWORD, SettingsFactory, join_through
from tests.examples.smriti.serving import served

AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
async def base(smriti_settings: SettingsFactory) -> AsyncIterator[str]:
    async with served(smriti_settings()) as address:
        yield address


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "the browser tests need Chromium: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = await browser.new_page(viewport={"width": 420, "height": 900})
        yield opened
        await browser.close()


@pytest.mark.long
async def test_a_visitor_signs_up_writes_reads_older_posts_and_founds_a_circle(
    base: str, page: Page, tmp_path: Path
) -> None:
    async with AsyncClient(base_url=base) as other:
        writer = await join_through(other, "writer")
        for number in range(45):
            await writer.note(f"thought {number}", title=f"Note {number}")
    complaints: list[Any] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    await page.goto(base)
    await page.get_by_label("Name", exact=True).fill("asha")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_label("E-mail").fill("asha@example.org")
    await page.get_by_role("button", name="Sign up").click()

    feed = page.locator("#feed > li")
    await expect(feed).to_have_count(20)
    for shown in (40, 45):
        await page.get_by_role("button", name="Older").click()
        await expect(feed).to_have_count(shown)
    await expect(page.get_by_role("button", name="Older")).to_be_hidden()

    picture = tmp_path / "dot.png"
    picture.write_bytes(DOT)
    await page.get_by_label("Title").fill("<b>First light</b>")
    await page.get_by_label("Words").fill("The river was still.")
    await page.get_by_label("Image").set_input_files(str(picture))
    await page.get_by_role("button", name="Post", exact=True).click()
    first = feed.first
    await expect(first).to_contain_text("<b>First light</b>")  # as text: markup of others never runs
    await expect(first.locator("img")).to_have_js_property("naturalWidth", 1)

    await page.get_by_text("Circles", exact=True).click()
    await page.get_by_label("New circle").fill("The porch")
    await page.get_by_role("button", name="Start").click()
    await expect(page.locator("#circles > li")).to_contain_text("The porch")
    await page.get_by_label("Words").fill("Only for us.")
    await page.locator("select[name=circle]").select_option(label="The porch")
    await page.get_by_role("button", name="Post", exact=True).click()
    await expect(page.get_by_role("status")).to_have_text("Posted.")
    await expect(feed.first).to_contain_text("First light")
    await page.get_by_label("From").select_option(label="The porch")
    await expect(feed).to_have_count(1)
    await expect(feed.first).to_contain_text("Only for us.")
    await expect(page.locator("#quote")).not_to_be_empty()

    await page.screenshot(path=str(tmp_path / "client.png"), full_page=True)
    await page.reload()
    await expect(feed).to_have_count(20)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    await page.get_by_label("Name", exact=True).fill("asha")
    await page.get_by_label("Password").fill("a wrong password")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("status")).to_contain_text("Wrong username or password")
    assert [text for text in complaints if "401" not in text] == []


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_axe_finds_nothing_wrong_and_nothing_is_wider_than_the_screen(
    base: str, page: Page, scheme: Any, width: int
) -> None:
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 800})
    async with AsyncClient(base_url=base) as other:
        writer = await join_through(other, "writer")
        await writer.note("a thought", title="A note with " + "longwords" * 20)
        await writer.client.post("/api/circles", json={"name": "The porch"})
        token = other.headers["Authorization"].removeprefix("Bearer ")
    await page.goto(base)
    assert await axe(page) == []
    await page.evaluate("token => sessionStorage.setItem('token', token)", token)
    await page.reload()
    await expect(page.locator("#feed > li")).to_have_count(1)
    await page.evaluate("document.getElementById('circles-box').open = true")
    await expect(page.locator("#circles > li")).to_contain_text("The porch")
    await page.wait_for_timeout(400)  # what appears has appeared: axe would see its colours half-way
    assert await axe(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def axe(page: Page) -> list[str]:
    """What axe-core finds wrong, one line each."""
    await page.evaluate(AXE)
    results = await page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    assert len(results["passes"]) > 15, "axe looked at next to nothing"
    return [f"{found['id']}: {node['html']}" for found in results["violations"] for node in found["nodes"]]


DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f6"
    "45400000000049454e44ae426082"
)
