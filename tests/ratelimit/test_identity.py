from __future__ import annotations

from collections.abc import Mapping

import pytest
from fastapi import FastAPI
from hypothesis import given, settings, strategies as st
from starlette.requests import Request

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit import (
    IdentityList,
    RateLimiter,
    api_key,
    client_address,
    setup_rate_limiting,
    user_or_address,
)
from tests.ratelimit.serving import client_of, statuses

PROXY = "10.0.0.1"


def request(peer: str | None = PROXY, *headers: tuple[str, str], **state: object) -> Request:
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
            "client": (peer, 1) if peer is not None else None,
            "state": state,
        }
    )


def forwarded(value: str, peer: str = PROXY, header: str = "X-Forwarded-For") -> str:
    return client_address(trusted_proxies=["10.0.0.0/8", "fd00::/8"], header=header)(request(peer, (header, value)))


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("1.1.1.1, 203.0.113.5", "203.0.113.5"),  # the left is what the client wrote
        ("127.0.0.1, 10.9.9.9, 203.0.113.5, 10.2.2.2", "203.0.113.5"),
        ("10.3.3.3", "10.3.3.3"),  # only proxies: the furthest of them
        ("203.0.113.5:4711", "203.0.113.5"),
        ("[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("203.0.113.5, unknown", PROXY),  # malformed where it matters: the last hop that was believed
        ("203.0.113.5, , 10.2.2.2", "10.2.2.2"),
        ("", PROXY),
        ("' OR 1=1 --", PROXY),
        ("١٠.٠.٠.١".encode().decode("latin-1"), PROXY),
    ],
)
def test_the_client_is_the_first_hop_from_the_right_that_is_no_proxy(chain: str, client: str) -> None:
    assert forwarded(chain) == client


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("for=203.0.113.5", "203.0.113.5"),
        ('For="[2001:db8:1:2::9]:4711";proto=https;by=10.0.0.1', "2001:db8:1:2::/64"),
        ("for=1.1.1.1, for=203.0.113.5;host=x, for=10.1.1.1", "203.0.113.5"),
        ("for=203.0.113.5, for=_hidden", PROXY),
        ("for=203.0.113.5, proto=https", PROXY),
        ("203.0.113.5", PROXY),
    ],
)
def test_the_forwarded_header_is_read_as_rfc_7239_has_it(header: str, client: str) -> None:
    assert forwarded(header, header="Forwarded") == client


def test_a_header_that_a_proxy_overwrites_can_be_named() -> None:
    assert forwarded("203.0.113.5", header="CF-Connecting-IP") == "203.0.113.5"


def test_without_trusted_proxies_no_header_is_read() -> None:
    assert client_address()(request("203.0.113.9", ("X-Forwarded-For", "1.1.1.1"))) == "203.0.113.9"


def test_a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_claims() -> None:
    assert forwarded("1.1.1.1", peer="203.0.113.9") == "203.0.113.9"


def test_a_huge_header_is_read_at_its_end_where_the_proxies_wrote() -> None:
    assert forwarded("1.1.1.1, " * 200_000 + "203.0.113.5") == "203.0.113.5"
    assert forwarded("10.1.1.1," * 100 + "10.1.1.1") == "10.1.1.1"


def test_several_headers_are_one_chain() -> None:
    both = request(PROXY, ("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "203.0.113.5"))
    assert client_address(trusted_proxies=[PROXY])(both) == "203.0.113.5"


def test_a_server_on_a_unix_socket_has_its_proxy_as_peer() -> None:
    key = client_address(trusted_proxies=["127.0.0.1"])
    assert key(request(None, ("X-Forwarded-For", "203.0.113.5"))) == "203.0.113.5"
    assert key(request("", ("X-Forwarded-For", "203.0.113.5"))) == "203.0.113.5"
    assert client_address()(request(None)) == "unknown"


def test_a_whole_ipv6_network_counts_as_one_client_and_the_prefix_can_be_chosen() -> None:
    one, other = request("2001:db8:1:2::1"), request("2001:db8:1:2:ffff::1")
    assert client_address()(one) == client_address()(other)
    assert client_address(ipv6_prefix=128)(one) != client_address(ipv6_prefix=128)(other)
    assert client_address(ipv4_prefix=24)(request("203.0.113.9")) == "203.0.113.0/24"


@given(header=st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=200))
@settings(deadline=None, max_examples=60)
def test_no_header_makes_a_key_function_fail(header: str) -> None:
    for name in ("X-Forwarded-For", "Forwarded"):
        assert forwarded(header, header=name)


@pytest.mark.parametrize("wrong", [{"trusted_proxies": ["10.0.0.0/99"]}, {"ipv6_prefix": 0}, {"ipv4_prefix": 33}])
def test_settings_that_cannot_work_are_refused(wrong: Mapping[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        client_address(**wrong)  # type: ignore[arg-type]


def test_a_user_is_told_from_an_address_that_looks_the_same() -> None:
    key = user_or_address()
    assert key(request("203.0.113.9")) == "ip:203.0.113.9"
    assert key(request("203.0.113.9", user_id="203.0.113.9")) == "user:203.0.113.9"
    assert user_or_address(lambda request: 7)(request()) == "user:7"
    assert user_or_address(lambda request: None)(request("203.0.113.9")) == "ip:203.0.113.9"


async def test_a_forged_token_neither_evades_a_limit_nor_spends_anothers() -> None:
    """The identity comes from what authentication has verified, so an unverified subject changes nothing."""

    def verified(request: Request) -> str | None:
        token = request.headers.get("authorization", "")
        return {"Bearer good-alice": "alice"}.get(token)

    limiter = RateLimiter(user_or_address(verified), default_limits=["2/minute"])
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    async def x() -> str:
        return "x"

    forged = [
        (await statuses(app, "/x", 1, authorization=f"Bearer forged-{name}"))[0] for name in ("alice", "bob", "carol")
    ]
    assert forged == [200, 200, 429]
    assert await statuses(app, "/x", 3, authorization="Bearer good-alice") == [200, 200, 429]


async def test_invented_api_keys_count_as_none_and_an_async_check_is_awaited() -> None:
    async def owner(key: str) -> str | None:
        return {"k1": "shop"}.get(key)

    limiter = RateLimiter(api_key(owner), default_limits=["2/minute"])
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    async def x() -> str:
        return "x"

    invented = [(await statuses(app, "/x", 1, **{"X-API-Key": f"no{n}"}))[0] for n in range(3)]
    assert invented == [200, 200, 429]
    assert await statuses(app, "/x", 3, **{"X-API-Key": "k1"}) == [200, 200, 429]
    assert (await limiter.peek("key:shop")).limits[0].remaining == 0


async def test_an_async_key_function_on_a_sync_route_says_what_to_do() -> None:
    async def owner(key: str) -> str:
        return "shop"

    limiter = RateLimiter(api_key(owner))
    app = FastAPI()

    @app.get("/x")
    @limiter.limit("2/minute")
    def x(request: Request) -> str:
        return "x"

    async with client_of(app) as client:
        with pytest.raises(ConfigurationError, match="async def"):
            await client.get("/x", headers={"X-API-Key": "k1"})


async def test_who_has_no_name_shares_one_allowance() -> None:
    limiter = RateLimiter(lambda request: request.headers.get("x-name"), default_limits=["2/minute"])
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    async def x() -> str:
        return "x"

    assert await statuses(app, "/x", 3) == [200, 200, 429]
    assert await statuses(app, "/x", 1, address="203.0.113.5") == [429]
    assert await statuses(app, "/x", 1, **{"x-name": "me"}) == [200]


def test_lists_hold_identities_and_networks() -> None:
    listed = IdentityList(["user:7", "10.0.0.0/8", "2001:db8::/32"])
    assert all(
        identity in listed for identity in ("user:7", "10.1.2.3", "ip:10.1.2.3", "ip:2001:db8:9:9::/64", "2001:db8::1")
    )
    assert not any(
        identity in listed
        for identity in ("user:8", "11.0.0.1", "user:10.1.2.3", "2001:db9::/64", "", "::/0", "0.0.0.0/0")
    )
    listed.discard("10.0.0.0/8")
    listed.add("user:8")
    assert "10.1.2.3" not in listed
    assert "user:8" in listed
    assert bool(listed)
    assert not IdentityList()


async def test_listed_callers_pass_or_are_refused_unasked() -> None:
    limiter = RateLimiter(client_address(), default_limits=["1/minute"], allow=["192.0.2.0/24"], deny=["203.0.113.66"])
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    async def x() -> str:
        return "x"

    assert await statuses(app, "/x", 3, address="192.0.2.9") == [200, 200, 200]
    assert await statuses(app, "/x", 2, address="203.0.113.66") == [403, 403]
    assert await statuses(app, "/x", 2) == [200, 429]
    limiter.denied.discard("203.0.113.66")
    assert await statuses(app, "/x", 1, address="203.0.113.66") == [200]


async def test_lists_and_filters_may_change_while_callers_are_served() -> None:
    limiter = RateLimiter(client_address())
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/limited")
    @limiter.limit("3/minute")
    async def limited(request: Request) -> str:
        return "x"

    @app.get("/other")
    async def other() -> str:
        return "x"

    async def both() -> list[int]:
        return [*await statuses(app, "/limited", 1), *await statuses(app, "/other", 1)]

    assert await both() == [200, 200]
    limiter.denied.add("198.51.100.0/24")
    assert await both() == [403, 403]
    limiter.denied.discard("198.51.100.0/24")
    assert await both() == [200, 200]
    limiter.allowed.add("198.51.100.7")
    assert [await both() for _ in range(3)] == [[200, 200]] * 3
    limiter.allowed.discard("198.51.100.7")
    assert [await both() for _ in range(2)] == [[200, 200], [429, 200]]
    limiter.request_filter(lambda: True)
    assert await both() == [200, 200]
