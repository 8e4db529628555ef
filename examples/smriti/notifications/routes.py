"""`/api/notifications`: register and forget a device."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.responses import Response

from examples.smriti.answers import Done, Failure, success
from examples.smriti.auth.accounts import User
from examples.smriti.auth.signed_in import SignedIn
from examples.smriti.notifications.devices import Devices


class Device(BaseModel):
    token: Annotated[str, Field(min_length=1, max_length=4096)]
    platform: Literal["android", "ios"]


def notification_routes(devices: Devices, signed_in: SignedIn) -> APIRouter:
    """The router, closed over its services."""
    router = APIRouter(
        prefix="/api/notifications",
        tags=["notifications"],
        responses={status: {"model": Failure} for status in (400, 401, 429)},
    )
    Me = Annotated[User, Depends(signed_in)]

    @router.post("/register-token", response_model=Done)
    async def register(device: Device, user: Me) -> Response:
        await devices.register(user, device.token, device.platform)
        return success("Registered")

    @router.post("/unregister-token", response_model=Done)
    async def unregister(device: Device, user: Me) -> Response:
        await devices.unregister(user, device.token)
        return success("Unregistered")

    return router
