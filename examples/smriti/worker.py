"""What a worker process imports: `smriti-scale tasks worker -A examples.smriti.worker:celery --beat`."""

from __future__ import annotations

from examples.smriti.services import Services
from examples.smriti.settings import SmritiSettings

celery = Services(SmritiSettings()).background.celery
