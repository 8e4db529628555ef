"""Fixtures of this room."""

from tests.monitoring.sinks import certificate, http_sink, smtp_sink, starttls_sink

__all__ = ["certificate", "http_sink", "smtp_sink", "starttls_sink"]
