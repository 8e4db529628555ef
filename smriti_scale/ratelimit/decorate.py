"""Puts a limited function behind its decision: async routes await it, sync routes have the loop make it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from starlette._utils import is_async_callable
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit.checked import Checked
from smriti_scale.ratelimit.enforcement import TOLD
from smriti_scale.ratelimit.exceeded import RateLimitExceeded
from smriti_scale.ratelimit.plans import RoutePlan
from smriti_scale.ratelimit.refusal import refuse_websocket

_REQUESTS = (Request, WebSocket)  # a union here would be built anew for every request

P = ParamSpec("P")
R = TypeVar("R")


def guard(function: Callable[P, R], plan: RoutePlan) -> Callable[P, R]:
    """The function behind its plan's limits.

    A generator (a route that yields its response) comes back as it is: the middleware decides before it starts.

    Raises:
        ConfigurationError: the function takes neither `request` nor `websocket`.
    """
    index, name = _request_parameter(function)
    limiter = plan.limiter
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        plan.by_middleware = True
        return function  # type: ignore[return-value]  # R is the generator

    def request_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> HTTPConnection:
        found = args[index] if len(args) > index and name not in kwargs else kwargs.get(name)
        if not isinstance(found, _REQUESTS):
            raise ConfigurationError(f"parameter `{name}` must be an instance of starlette.requests.Request")
        return found

    def finish(request: HTTPConnection, response: object, kwargs: dict[str, Any], checked: Checked) -> None:
        if TOLD in request.scope:
            return  # the middleware tells it, whatever the response is
        if not isinstance(response, Response):
            if "response" not in kwargs:
                return
            response = kwargs["response"]
            if not isinstance(response, Response):
                raise ConfigurationError("parameter `response` must be an instance of starlette.responses.Response")
        limiter.write_headers(response.headers, checked.decision)

    if is_async_callable(function):

        @functools.wraps(function)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            if not (limiter.enabled and limiter._auto_check):  # `active`, spelled out on the hot path
                return await function(*args, **kwargs)
            request: Any = args[index] if len(args) > index else None
            if not isinstance(request, _REQUESTS):
                request = request_in(args, kwargs)
            try:
                checked = limiter.check_now(request, plan)
                if checked is None:
                    checked = await limiter.check(request, plan)
            except RateLimitExceeded as refusal:
                if isinstance(request, WebSocket):
                    return await refuse_websocket(request, refusal)
                raise
            response = await function(*args, **kwargs)
            if limiter._headers_enabled:
                finish(request, response, kwargs, checked)
            return response

        return cast("Callable[P, R]", awaited)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not limiter.active:
            return function(*args, **kwargs)
        request = request_in(args, kwargs)
        checked = limiter.check_blocking(request, plan)
        response = function(*args, **kwargs)
        if limiter._headers_enabled:
            finish(request, response, kwargs, checked)
        return response

    return called


def _request_parameter(function: Callable[..., Any]) -> tuple[int, str]:
    for index, name in enumerate(inspect.signature(function).parameters):
        if name in ("request", "websocket"):
            return index, name
    raise ConfigurationError(f'No "request" or "websocket" argument on function "{function}"')
