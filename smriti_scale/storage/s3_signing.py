"""Addresses that S3 accepts without more: presigned by botocore's SigV4, without a botocore client."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from smriti_scale.errors import ConfigurationError, MissingExtraError


class S3Signer:
    """Presigns requests to one bucket.

    Args:
        bucket: the bucket's name.
        region: its region.
        endpoint: the address of an S3-compatible service, which is then addressed by path; None is AWS.
        access_key: None takes what botocore finds: environment, profile, the machine's role.
        secret_key: goes with `access_key`.
        session_token: for temporary credentials.

    Raises:
        ConfigurationError: there are no credentials, or half of them.
        MissingExtraError: botocore is not installed.
    """

    def __init__(
        self,
        bucket: str,
        *,
        region: str,
        endpoint: str | None,
        access_key: str | None,
        secret_key: str | None,
        session_token: str | None,
    ) -> None:
        try:
            import botocore.auth as auth
            import botocore.awsrequest as awsrequest
            import botocore.credentials as credentials
            import botocore.session as session
        except ImportError as error:
            raise MissingExtraError("s3", package="botocore", feature="S3Store") from error
        self._auth: Any = auth
        self._request: Any = awsrequest.AWSRequest
        self._region = region
        if (access_key is None) != (secret_key is None):
            raise ConfigurationError("S3Store needs access_key and secret_key, or neither")
        if access_key is not None and secret_key is not None:
            self._credentials: Any = credentials.Credentials(access_key, secret_key, session_token)
        else:
            self._credentials = session.get_session().get_credentials()
        if self._credentials is None:
            raise ConfigurationError(
                "S3Store found no credentials: give access_key and secret_key, or set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or run with a role"
            )
        if endpoint is None:
            self.base = f"https://{bucket}.s3.{region}.amazonaws.com"
        else:
            if urlsplit(endpoint).scheme not in ("http", "https"):
                raise ConfigurationError(f"endpoint {endpoint!r} must begin with https:// or http://")
            self.base = f"{endpoint.rstrip('/')}/{quote(bucket)}"
        self._bucket = bucket

    @property
    def may_block(self) -> bool:
        """Whether signing may have to fetch new credentials (a role's), which blocks."""
        refresh: Any = getattr(self._credentials, "refresh_needed", None)
        return bool(refresh is not None and refresh())

    def refresh(self) -> None:
        """Fetch new credentials if they are due. Blocks."""
        self._credentials.get_frozen_credentials()

    def presign(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        expires_in: int = 300,
    ) -> str:
        """The address for one request; `headers` must be sent exactly so."""
        url = f"{self.base}/{quote(key)}"
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        request = self._request(method=method, url=url, headers=dict(headers or {}))
        signer = self._auth.S3SigV4QueryAuth(
            self._credentials.get_frozen_credentials(), "s3", self._region, expires=expires_in
        )
        signer.add_auth(request)
        signed: str = request.url
        return signed

    def presign_post(
        self, key: str, *, content_type: str, max_size: int, expires_in: int
    ) -> tuple[str, dict[str, str]]:
        """Address and form fields of an upload by form, which S3 holds to this key, type and size."""
        expires = datetime.now(UTC) + timedelta(seconds=expires_in)
        request = self._request(method="POST", url=self.base)
        fields = {"key": key, "Content-Type": content_type}
        request.context["s3-presign-post-fields"] = fields
        request.context["s3-presign-post-policy"] = {
            "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "conditions": [
                {"bucket": self._bucket},
                {"key": key},
                {"Content-Type": content_type},
                ["content-length-range", 1, max_size],
            ],
        }
        signer = self._auth.S3SigV4PostAuth(self._credentials.get_frozen_credentials(), "s3", self._region)
        signer.add_auth(request)
        return self.base, fields
