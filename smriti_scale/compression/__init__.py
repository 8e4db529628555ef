"""Response compression: zstd, brotli and gzip, negotiated as RFC 9110 says, with headers that caches can trust."""

from __future__ import annotations

from smriti_scale.compression.coders import ENCODINGS
from smriti_scale.compression.middleware import (
    CompressionMiddleware,
    no_compression,
    send_uncompressed,
    setup_compression,
)

__all__ = ["ENCODINGS", "CompressionMiddleware", "no_compression", "send_uncompressed", "setup_compression"]
