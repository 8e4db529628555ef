"""The service's settings: the library's, and Smriti's own under the names its deployments already use."""

from __future__ import annotations

import sys
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from smriti_scale.settings import ScaleSettings, Strings

STRONG_ROUNDS = 12
SHORTEST_CRON_SECRET = 16


class SmritiSettings(ScaleSettings):
    """Read from the environment or `.env`; see `.env.example` for each variable."""

    namespace: str = "smriti"
    rate_limit_lease: int = 50
    database_name: str = Field("smriti", validation_alias=AliasChoices("SCALE_DATABASE_NAME", "DATABASE_NAME"))

    algorithm: str = Field("HS256", validation_alias="ALGORITHM", pattern="^HS(256|384|512)$")
    access_token_expire_minutes: int = Field(43_200, validation_alias="ACCESS_TOKEN_EXPIRE_MINUTES", ge=1)
    bcrypt_rounds: int = Field(12, validation_alias="BCRYPT_ROUNDS", ge=4, le=16)

    signup_limit: str = Field("5/minute", validation_alias="SIGNUP_LIMIT")
    login_limit: str = Field("10/minute", validation_alias="LOGIN_LIMIT")
    post_limit: str = Field("30/minute", validation_alias="POST_LIMIT")
    user_limit: str = Field("300/minute", validation_alias="USER_LIMIT")

    primitives: Literal["on", "off"] = Field("on", validation_alias="PRIMITIVES")
    """`off` serves from the primary alone, without caches, limits, compression and figures: to measure what those
    bring. Not for production."""

    cron_secret: SecretStr | None = Field(None, validation_alias="CRON_SECRET")
    """What a scheduler sends in `X-Cron-Secret`; without one the cron routes are closed."""
    firebase_credentials_path: str | None = Field(None, validation_alias="FIREBASE_CREDENTIALS_PATH")
    firebase_credentials_json: SecretStr | None = Field(None, validation_alias="FIREBASE_CREDENTIALS_JSON")

    public_url: str = Field("http://127.0.0.1:8000", validation_alias="PUBLIC_URL")
    """Where clients reach this service: the beginning of every file's address."""
    storage: Literal["local", "s3", "cloudinary", "none"] = Field("local", validation_alias="STORAGE")
    storage_folder: str = Field(".smriti/files", validation_alias="STORAGE_FOLDER")
    s3_bucket: str = Field("", validation_alias="S3_BUCKET")
    s3_region: str = Field("us-east-1", validation_alias="S3_REGION")
    s3_endpoint: str | None = Field(None, validation_alias="S3_ENDPOINT")
    cloudinary_cloud_name: str = Field("", validation_alias="CLOUDINARY_CLOUD_NAME")
    cloudinary_api_key: str = Field("", validation_alias="CLOUDINARY_API_KEY")
    cloudinary_api_secret: SecretStr = Field(SecretStr(""), validation_alias="CLOUDINARY_API_SECRET")
    cloudinary_api_url: str = Field("https://api.cloudinary.com", validation_alias="CLOUDINARY_API_URL")
    cloudinary_delivery_url: str = Field("https://res.cloudinary.com", validation_alias="CLOUDINARY_DELIVERY_URL")

    cors_origins: Strings = Field(
        ("http://localhost:3000", "http://localhost:19006", "exp://localhost:19000"), validation_alias="CORS_ORIGINS"
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fit_for_production(self) -> Self:
        if not self.is_production:
            return self
        if self.bcrypt_rounds < STRONG_ROUNDS:
            raise ValueError(f"BCRYPT_ROUNDS must be at least {STRONG_ROUNDS} in production, not {self.bcrypt_rounds}")
        if self.cron_secret is not None and len(self.cron_secret.get_secret_value()) < SHORTEST_CRON_SECRET:
            raise ValueError(f"CRON_SECRET must have at least {SHORTEST_CRON_SECRET} characters in production")
        if self.primitives == "off":
            raise ValueError("PRIMITIVES=off switches the limits off: not in production")
        return self

    @property
    def effective(self) -> Self:
        """With the limit that counts everything, and without the primitives if they are switched off."""
        if self.primitives == "on":
            return self.model_copy(update={"application_limits": (self.user_limit,)})
        off = {
            "read_preference": "primary",
            "read_your_writes": False,  # the primary has them all
            "http_cache": False,
            "compression_minimum_size": sys.maxsize,
            "monitoring": "off",
        }
        return self.model_copy(update=off)
