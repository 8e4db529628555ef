"""`make_celery`: a Celery app that does not lose work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smriti_scale.errors import ConfigurationError, MissingExtraError
from smriti_scale.events import Events
from smriti_scale.tasks.loops import Lifespan
from smriti_scale.tasks.policy import TaskPolicy, broker_of, celery_settings

if TYPE_CHECKING:
    from smriti_scale.tasks.app import ScaleCelery


def make_celery(
    name: str,
    broker_url: str,
    *,
    policy: TaskPolicy | None = None,
    queues: Sequence[str] = ("default",),
    routes: Mapping[str, str] | None = None,
    result_backend: str | None = None,
    schedule: Mapping[str, Mapping[str, Any]] | None = None,
    lifespan: Lifespan | None = None,
    include: Sequence[str] = (),
    key_prefix: str = "",
    eager: bool = False,
    events: Events | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ScaleCelery:
    """A Celery app whose tasks survive dying workers, restarts and a broker that comes and goes.

    Args:
        name: the app's name; names of its tasks in `__main__` and its dead letters begin with it.
        broker_url: `redis://`, `rediss://`, `unix://` or `redis+sentinel://host:26379/SERVICE/0`.
        policy: time limits, retries and how fast lost work comes back; see `TaskPolicy`.
        queues: the queues there are; the first takes what is not routed elsewhere.
        routes: task name (or a pattern such as `"reports.*"`) to queue.
        result_backend: where results are kept, if anyone reads them; by default nowhere.
        schedule: what beat publishes, in Celery's form: `{"nightly": {"task": "…", "schedule": crontab(…)}}`.
        lifespan: makes an async context manager, entered once in each worker process; what it yields is `task.state`.
        include: modules with tasks, imported by the worker.
        key_prefix: put before every key in Redis, so that apps can share a server.
        eager: run tasks where they are published: for tests.
        events: receives `TaskPublished`, `TaskFinished`, `TaskDead` and their like.
        settings: any of Celery's own settings; they win.

    Raises:
        ConfigurationError: an argument cannot work; the message says which and why.
        MissingExtraError: Celery is not installed.
    """
    try:
        from smriti_scale.tasks.app import ScaleCelery
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("celery", "kombu"):
            raise
        raise MissingExtraError("tasks", package="celery", feature="make_celery") from error
    if not name:
        raise ConfigurationError("make_celery needs a name: it tells this app's dead letters from another's")
    if not queues or len(set(queues)) != len(queues):
        raise ConfigurationError(f"queues must be one or more different names, not {list(queues)!r}")
    routes = dict(routes or {})
    if unknown := set(routes.values()) - set(queues):
        raise ConfigurationError(
            f"routes lead to {', '.join(sorted(map(repr, unknown)))}, but queues are {', '.join(map(repr, queues))}"
        )
    policy = policy or TaskPolicy()
    broker = broker_of(broker_url)
    configured = celery_settings(
        policy,
        broker,
        queues=queues,
        routes=routes,
        key_prefix=key_prefix,
        result_backend=result_backend,
        eager=eager,
    )
    configured["beat_schedule"] = dict(schedule or {})
    extra = dict(settings or {})
    # Options of the transport add up: replacing them whole would drop the lease and the restore interval unseen.
    configured["broker_transport_options"] |= extra.pop("broker_transport_options", {})
    return ScaleCelery(
        name,
        policy=policy,
        broker=broker,
        redis_url=broker_url,
        key_prefix=key_prefix,
        lifespan=lifespan,
        events=events,
        include=tuple(include),
        settings=configured | extra,
    )
