"""The floor of the Smriti benchmark: a FastAPI route that checks a token and does nothing else."""

from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException

from smriti_scale.settings import DEVELOPMENT_SECRET

app = FastAPI()


def user_id(authorization: Annotated[str, Header()]) -> str:
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), DEVELOPMENT_SECRET, algorithms=["HS256"])
    except jwt.InvalidTokenError as invalid:
        raise HTTPException(401) from invalid
    return str(claims["sub"])


@app.get("/readyz")
async def ready() -> dict[str, str]:
    return {"status": "ready"}


@app.get("/me")
async def me(user: Annotated[str, Depends(user_id)]) -> dict[str, str]:
    return {"user": user}
