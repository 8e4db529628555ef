"""Alerts over real sockets: what arrives, how often, and what happens when nobody takes it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from smriti_scale.errors import AlertNotDelivered, ConfigurationError
from smriti_scale.events import BreakerChanged, Events, PrimaryChanged
from smriti_scale.monitoring import Alerts, Dependency, Email, Finding, Notice, SentryChannel, Webhook
from smriti_scale.testing import ManualClock
from tests.monitoring.sinks import HTTPSink, Mailbox, until

DOWN = Finding("dependency:redis", "page", "Redis does not answer", "open circuit breakers: ratelimit")
SECRET_PATH = "/services/T0/B0/hunter2"


@pytest.fixture(autouse=True)
def _no_waiting_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smriti_scale.monitoring.delivery._FIRST_PAUSE", 0.01)


@pytest.fixture
def _quiet_sentry() -> Iterator[None]:
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


def raised(alerts: Alerts, *findings: Finding) -> None:
    for finding in findings:
        alerts.raise_alert(finding)
    alerts.observe()


def over(alerts: Alerts, clock: ManualClock, key: str = DOWN.key) -> None:
    alerts.clear(key)
    alerts.observe()
    clock.advance(121)
    alerts.observe()


# --- webhooks


async def test_a_webhook_is_told_once_and_again_when_it_is_over(http_sink: HTTPSink, clock: ManualClock) -> None:
    async with Alerts(
        [Webhook(http_sink.url, headers={"Authorization": "Bearer t"})], service="shop", clock=clock
    ) as it:
        for _ in range(20):
            raised(it, DOWN)
            clock.advance(15)
        await http_sink.until(1)
        over(it, clock)
        await http_sink.until(2)
    first, second = http_sink.bodies
    assert first == {
        "kind": "raised",
        "key": "dependency:redis",
        "severity": "page",
        "title": "Redis does not answer",
        "detail": "open circuit breakers: ratelimit",
        "service": "shop",
        "since": "2023-11-14T22:13:20Z",
        "at": "2023-11-14T22:13:20Z",
        "lasted": 0.0,
        "held_back": 0,
    }
    assert (second["kind"], second["since"], second["lasted"]) == ("resolved", first["since"], 421.0)
    assert len(http_sink.received) == 2
    path, headers, _ = http_sink.received[0]
    assert (path, headers["content-type"], headers["authorization"]) == ("/", "application/json", "Bearer t")


async def test_slack_gets_its_own_shape_and_no_mention_gets_through(http_sink: HTTPSink, clock: ManualClock) -> None:
    nasty = Finding("x", "ticket", "<!here> a & b\nsecond line")
    async with Alerts([Webhook(http_sink.url, shape="slack")], service="shop", clock=clock) as alerts:
        raised(alerts, nasty)
        over(alerts, clock, "x")
        await http_sink.until(2)
    first, second = http_sink.bodies
    assert first["text"] == "[ticket] shop: &lt;!here&gt; a &amp; b second line"
    assert first["attachments"][0]["text"] == "since 2023-11-14T22:13:20Z"
    assert second["text"].startswith("[resolved] shop: ")
    assert second["attachments"][0]["text"].endswith("for 2 min 1 s")
    assert first["attachments"][0]["color"] != second["attachments"][0]["color"]


async def test_a_receiver_in_trouble_is_tried_again(http_sink: HTTPSink, clock: ManualClock) -> None:
    http_sink.answers.extend([500, 503])
    registry = CollectorRegistry()
    alerts = Alerts([Webhook(http_sink.url, name="hook")])
    alerts.export_to(registry)
    async with alerts:
        raised(alerts, DOWN)
        await http_sink.until(3)
    assert [body["kind"] for body in http_sink.bodies] == ["raised"] * 3
    assert registry.get_sample_value("scale_alert_notices_total", {"channel": "hook", "outcome": "sent"}) == 1


async def test_a_silent_receiver_is_given_up_after_its_time_and_tried_again(http_sink: HTTPSink) -> None:
    http_sink.answers.append(None)
    async with Alerts([Webhook(http_sink.url, timeout=0.1)]) as alerts:
        raised(alerts, DOWN)
        await http_sink.until(2)


async def test_a_receiver_that_asks_for_time_gets_it(http_sink: HTTPSink, clock: ManualClock) -> None:
    http_sink.answers.append((429, "Retry-After: 30\r\n"))
    async with Alerts([Webhook(http_sink.url)], clock=clock) as alerts:
        raised(alerts, DOWN)
        await clock.until_sleepers()
        clock.advance(29)
        await asyncio.sleep(0.05)
        assert len(http_sink.received) == 1
        clock.advance(1)
        await http_sink.until(2)


@pytest.mark.parametrize("answer", [404, 401, (302, "Location: http://127.0.0.1:9/elsewhere\r\n")])
async def test_a_refusal_is_not_repeated_and_its_address_is_not_logged(
    answer: Any, http_sink: HTTPSink, caplog: pytest.LogCaptureFixture
) -> None:
    http_sink.answers.append(answer)
    caplog.set_level(logging.DEBUG)
    async with Alerts([Webhook(SecretStr(http_sink.url + SECRET_PATH))]) as alerts:
        raised(alerts, DOWN)
        await until(lambda: "did not go to" in caplog.text)
    assert len(http_sink.received) == 1
    status = answer[0] if isinstance(answer, tuple) else answer
    assert f"an alert did not go to webhook 127.0.0.1 (it answered {status}): raised dependency:redis" in caplog.text
    assert "hunter2" not in caplog.text


async def test_no_secret_is_in_logs_whatever_goes_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    channels: list[Webhook | Email] = [
        Webhook(f"http://user:hunter2@127.0.0.1:{port}{SECRET_PATH}"),
        Email(
            "127.0.0.1", port=port, sender="a@b.example", recipients=["c@d.example"], username="u", password="hunter2"
        ),
    ]
    async with Alerts(channels, attempts=2) as alerts:
        raised(alerts, DOWN)
        await until(lambda: caplog.text.count("did not go to") == 2)
    assert "ConnectionRefusedError" in caplog.text
    for text in (caplog.text, *map(repr, channels), *(channel.name for channel in channels)):
        assert "hunter2" not in text
        assert "c@d.example" not in text


@pytest.mark.parametrize("url", ["ftp://x/hunter2", "file:///etc/hunter2", "hooks.example/hunter2", ""])
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        Webhook(url)
    assert "hunter2" not in str(told.value)


# --- e-mail


async def test_an_email_arrives_and_its_recovery_in_the_same_thread(smtp_sink: Mailbox, clock: ManualClock) -> None:
    email = Email(
        smtp_sink.host, port=smtp_sink.port, sender="Shop <alerts@shop.example>",
        recipients=["ops@shop.example", "two@shop.example"], security="none",
    )  # fmt: skip
    async with Alerts([email], service="shop", clock=clock) as alerts:
        raised(alerts, DOWN, Finding("x", "ticket", "Bcc: evil@example.org\r\nSubject: no"))
        over(alerts, clock)
        await until(lambda: len(smtp_sink.messages) == 3)
    first, other, last = smtp_sink.messages
    assert first["Subject"] == "[page] shop: Redis does not answer"
    assert last["Subject"] == "[resolved] shop: Redis does not answer"
    assert first["References"] == last["References"] != other["References"]
    assert first["Message-ID"] != last["Message-ID"]
    assert first["Auto-Submitted"] == "auto-generated"
    assert "open circuit breakers: ratelimit" in first.get_payload()
    assert smtp_sink.recipients[0] == ["ops@shop.example", "two@shop.example"]
    assert other["Bcc"] is None
    assert other["Subject"] == "[ticket] shop: Bcc: evil@example.org Subject: no"


async def test_a_password_goes_through_verified_tls_alone(
    starttls_sink: Mailbox, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    where: dict[str, Any] = {
        "port": starttls_sink.port, "sender": "a@shop.example", "recipients": ["b@shop.example"], "username": "a",
    }  # fmt: skip
    good = Email("127.0.0.1", password=SecretStr("right"), tls=trusting, **where)
    distrusting = Email("127.0.0.1", password="right", **where)
    wrong = Email("127.0.0.1", password="hunter2", tls=trusting, **where)
    async with Alerts([good, distrusting, wrong]) as alerts:
        raised(alerts, DOWN)
        await until(lambda: caplog.text.count("did not go to") == 2 and starttls_sink.messages)
    assert len(starttls_sink.messages) == 1
    # smtplib offers a wrong password by each way to log in; the distrusting channel sent nothing at all.
    assert set(starttls_sink.logins) == {(b"a", b"hunter2"), (b"a", b"right")}
    assert "the server's certificate is not trusted" in caplog.text
    assert "SMTPAuthenticationError 535" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_mail_server_that_defers_is_tried_again_and_one_that_refuses_is_not(
    smtp_sink: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    email = Email(
        smtp_sink.host, port=smtp_sink.port, sender="a@b.example", recipients=["c@d.example"], security="none"
    )
    smtp_sink.refusals.extend(["451 busy", "451 busy"])
    async with Alerts([email]) as alerts:
        raised(alerts, DOWN)
        await until(lambda: smtp_sink.messages)
        smtp_sink.refusals.append("554 no")
        raised(alerts, Finding("y", "page", "y"))
        await until(lambda: "did not go to" in caplog.text)
    assert [message["Subject"] for message in smtp_sink.messages] == ["[page] Redis does not answer"]
    assert "SMTPDataError 554" in caplog.text


async def test_recipients_that_are_gone_do_not_keep_it_from_the_others(
    smtp_sink: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    email = Email(
        smtp_sink.host, port=smtp_sink.port, sender="a@b.example", security="none",
        recipients=["gone@d.example", "c@d.example"],
    )  # fmt: skip
    async with Alerts([email]) as alerts:
        raised(alerts, DOWN)
        await until(lambda: "1 of 2 recipients refused" in caplog.text)
    assert smtp_sink.recipients == [["c@d.example"]]
    assert "gone@" not in caplog.text


def test_an_email_channel_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="encryption"):
        Email("h", sender="a@b.example", recipients=["c@d.example"], security="none", password="x")
    with pytest.raises(ConfigurationError, match="sender"):
        Email("h", sender="nobody", recipients=["c@d.example"])
    with pytest.raises(ConfigurationError, match="recipients"):
        Email("h", sender="a@b.example", recipients=[])


# --- Sentry and functions


@pytest.mark.usefixtures("_quiet_sentry")
async def test_sentry_gets_one_issue_for_all_notices_of_an_alert(http_sink: HTTPSink, clock: ManualClock) -> None:
    sentry_sdk.init(dsn=http_sink.url.replace("//", "//key@") + "/1", default_integrations=False)
    async with Alerts([SentryChannel()], service="shop", clock=clock) as alerts:
        raised(alerts, DOWN)
        over(alerts, clock)
        await http_sink.until(2)
    events = []
    for path, _, body in http_sink.received:
        assert path == "/api/1/envelope/"
        events.append(json.loads(body.split(b"\n")[2]))
    first, second = events
    assert first["message"] == "[page] shop: Redis does not answer"
    assert (first["level"], second["level"]) == ("error", "info")
    assert first["fingerprint"] == second["fingerprint"] == ["smriti_scale", "shop", "dependency:redis"]
    assert first["tags"]["alert.severity"] == "page"
    assert second["contexts"]["alert"]["kind"] == "resolved"


async def test_without_sentry_that_channel_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with Alerts([SentryChannel()]) as alerts:
        raised(alerts, DOWN)
        await until(lambda: "Sentry is not set up" in caplog.text)


async def test_any_function_is_a_channel_and_a_blocking_one_blocks_nobody() -> None:
    told: list[tuple[str, str]] = []
    go_on = threading.Event()

    async def remember(notice: Notice) -> None:
        told.append(("async", notice.alert.key))

    def block(notice: Notice) -> None:
        go_on.wait(20)
        told.append((threading.current_thread().name, notice.alert.key))

    class Callee:
        async def __call__(self, notice: Notice) -> None:
            told.append(("object", notice.alert.key))

    async with Alerts([block, remember, Callee()]) as alerts:
        raised(alerts, DOWN)
        await until(lambda: len(told) == 2)  # although the first one hangs
        assert {who for who, _ in told} == {"async", "object"}
        go_on.set()
        await until(lambda: len(told) == 3)
    assert told[-1][0] != "MainThread"


async def test_a_channel_that_raises_harms_no_other_and_its_words_are_not_logged(
    http_sink: HTTPSink, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(notice: Notice) -> None:
        raise ValueError("mongodb://user:hunter2@host")

    async with Alerts([broken, Webhook(http_sink.url)], attempts=2) as alerts:
        raised(alerts, DOWN)
        await http_sink.until(1)
        await until(lambda: "did not go to" in caplog.text)
    assert "(ValueError)" in caplog.text
    assert "hunter2" not in caplog.text


# --- bounds


async def test_a_flood_is_held_back_and_the_next_message_says_how_much(clock: ManualClock) -> None:
    told: list[Notice] = []

    async def remember(notice: Notice) -> None:
        told.append(notice)

    async with Alerts([remember], per_hour=3, clock=clock) as alerts:
        raised(alerts, *(Finding(f"t{number}", "ticket", "flood") for number in range(10)))
        await until(lambda: len(told) == 3)
        raised(alerts, DOWN)  # pages have an allowance of their own
        await until(lambda: len(told) == 4)
        assert (told[3].alert.severity, told[3].held_back) == ("page", 7)
        for number in range(10):
            alerts.clear(f"t{number}")
        alerts.observe()
        clock.advance(121)
        alerts.observe()
        await until(lambda: len(told) == 7)
        assert {notice.alert.key for notice in told[4:]} == {"t0", "t1", "t2"}  # who was told it began is told it ended
        clock.advance(3_600)
        raised(alerts, Finding("new", "ticket", "x"))
        await until(lambda: len(told) == 8)


async def test_the_queue_is_bounded_and_raising_never_waits(caplog: pytest.LogCaptureFixture) -> None:
    never = asyncio.Event()

    async def hang(notice: Notice) -> None:
        await never.wait()

    registry = CollectorRegistry()
    alerts = Alerts([hang], queue_size=5, per_hour=1_000)
    alerts.export_to(registry)
    await alerts.start()
    raised(alerts, *(Finding(str(number), "page", "x") for number in range(100)))
    assert len(alerts.active()) == 100
    labels = {"channel": alerts._deliveries[0].channel.name, "outcome": "lost"}
    assert registry.get_sample_value("scale_alert_notices_total", labels) == 95
    await alerts.aclose(deadline=0.05)
    assert "stopped with alerts undelivered" in caplog.text


async def test_closing_delivers_what_waits(http_sink: HTTPSink) -> None:
    alerts = Alerts([Webhook(http_sink.url)])
    raised(alerts, *(Finding(str(number), "page", "x") for number in range(10)))  # before it even starts
    await alerts.start()
    await alerts.aclose()
    assert [body["key"] for body in http_sink.bodies] == [str(number) for number in range(10)]


async def test_closing_ends_by_its_deadline_and_waits_for_no_pause(http_sink: HTTPSink, clock: ManualClock) -> None:
    http_sink.answers.extend([500] * 3)
    alerts = Alerts([Webhook(http_sink.url)], clock=clock)  # whose time stands still: a pause would last for ever
    await alerts.start()
    raised(alerts, DOWN)
    await clock.until_sleepers()
    await alerts.aclose()
    assert [body["kind"] for body in http_sink.bodies] == ["raised"] * 4

    http_sink.answers.append(None)
    await alerts.start()  # the next lifespan
    raised(alerts, Finding("x", "page", "x"))
    await http_sink.until(5)
    began = time.monotonic()
    await alerts.aclose(deadline=0.1)
    assert time.monotonic() - began < 9, "the hanging receiver's own time-out is not waited for"


async def test_it_starts_anew_in_another_event_loop(http_sink: HTTPSink) -> None:
    told: list[str] = []

    async def remember(notice: Notice) -> None:
        told.append(notice.alert.key)

    alerts = Alerts([remember])

    async def life(key: str) -> None:
        async with alerts:
            raised(alerts, Finding(key, "page", "x"))
            await until(lambda: key in told)

    await asyncio.to_thread(asyncio.run, life("one"))
    await asyncio.to_thread(asyncio.run, life("two"))
    assert told == ["one", "two"]


@pytest.mark.parametrize(
    "options", [{"per_hour": 0}, {"queue_size": 0}, {"attempts": 0}, {"timeout": 0}, {"repeat_after": 0}]
)
def test_numbers_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Alerts([], **options)


def test_an_error_of_a_channel_of_ones_own_says_whether_to_try_again() -> None:
    assert AlertNotDelivered("no", permanent=True).permanent
    assert AlertNotDelivered("later", retry_after=5).retry_after == 5


# --- dependencies


async def test_a_redis_that_is_gone_is_one_alert_however_many_breakers_open(clock: ManualClock) -> None:
    events, told = Events(), []

    async def remember(notice: Notice) -> None:
        told.append((notice.kind, notice.alert.key, notice.alert.severity))

    async with Alerts([remember], clock=clock) as alerts:
        events.subscribe(alerts.on_event)
        for breaker in ("cache app", "ratelimit", "redis (positions)", "the task broker"):
            events.emit(BreakerChanged(breaker, "open"))
        alerts.observe()
        assert alerts.active() == ()
        for _ in range(10):
            clock.advance(5)
            events.emit(BreakerChanged("ratelimit", "half_open"))
            events.emit(BreakerChanged("ratelimit", "open"))
            alerts.observe()
        [active] = alerts.active()
        assert active.detail == "open circuit breakers: cache app, ratelimit, redis (positions), the task broker"
        for breaker in ("cache app", "ratelimit", "redis (positions)", "the task broker"):
            events.emit(BreakerChanged(breaker, "closed"))
        alerts.observe()
        clock.advance(121)
        alerts.observe()
        await until(lambda: len(told) == 2)
    assert told == [("raised", "dependency:redis", "page"), ("resolved", "dependency:redis", "page")]


def test_a_breaker_that_opens_for_a_moment_is_not_told(clock: ManualClock) -> None:
    alerts = Alerts(clock=clock)
    for _ in range(10):
        alerts.on_event(BreakerChanged("cache app", "open"))
        alerts.observe()
        clock.advance(5)
        alerts.on_event(BreakerChanged("cache app", "closed"))
        alerts.observe()
        clock.advance(5)
    assert alerts.active() == ()


def test_an_election_is_not_told_and_a_lasting_loss_of_the_primary_is(clock: ManualClock) -> None:
    alerts = Alerts(clock=clock)
    alerts.on_event(PrimaryChanged("a:1", None))
    alerts.observe()
    clock.advance(12)
    alerts.on_event(PrimaryChanged(None, "b:1"))
    alerts.observe()
    alerts.on_event(PrimaryChanged("b:1", None))
    for _ in range(3):
        alerts.observe()
        assert alerts.active() == ()
        clock.advance(12)
    alerts.observe()
    assert [(alert.key, alert.severity) for alert in alerts.active()] == [("dependency:mongodb", "page")]


def test_dependencies_of_ones_own_and_breakers_that_concern_nobody(clock: ManualClock) -> None:
    mail = Dependency("mail", breakers=["smtp*"], severity="ticket", after=0)
    alerts = Alerts(dependencies=[mail], clock=clock)
    alerts.on_event(BreakerChanged("ratelimit", "open"))
    alerts.on_event(BreakerChanged("smtp relay", "open"))
    alerts.observe()
    assert [(alert.key, alert.title) for alert in alerts.active()] == [("dependency:mail", "mail does not answer")]


def test_the_gauge_shows_what_is_active_and_what_no_longer_is(clock: ManualClock) -> None:
    registry, alerts = CollectorRegistry(), Alerts(clock=clock)
    alerts.export_to(registry)
    raised(alerts, DOWN)
    labels = {"alert": "dependency:redis", "severity": "page"}
    assert registry.get_sample_value("scale_alert_active", labels) == 1
    over(alerts, clock)
    assert registry.get_sample_value("scale_alert_active", labels) == 0
