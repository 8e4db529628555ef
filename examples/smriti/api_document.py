"""The OpenAPI document, as this service answers: a failed validation is 400, and a token opens what needs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI


def api_document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What `app.openapi` is to be: FastAPI's document without the 422 that it always assumes; made once."""
    generated = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            for path in generated()["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
        return generated()

    return document
