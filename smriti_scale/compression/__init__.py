"""Response compression: zstd, brotli and gzip, negotiated as RFC 9110 says, with headers that caches can trust.

Also static files, coded ahead of time: `build_assets` and `StaticAssets`.
"""

from __future__ import annotations

from smriti_scale.compression.assets import Asset, build_assets
from smriti_scale.compression.coders import ENCODINGS
from smriti_scale.compression.middleware import CompressionMiddleware
from smriti_scale.compression.setup import no_compression, send_uncompressed, setup_compression
from smriti_scale.compression.static import StaticAssets, UnknownAsset

__all__ = [
    "ENCODINGS",
    "Asset",
    "CompressionMiddleware",
    "StaticAssets",
    "UnknownAsset",
    "build_assets",
    "no_compression",
    "send_uncompressed",
    "setup_compression",
]
