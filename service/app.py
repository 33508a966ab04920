"""The API process: takes slides and orders, hands out results; decodes nothing and holds no model."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.api import catalog, health, jobs, problems, slides, uploads
from service.api.context import Context
from service.jobs.sql_store import SqlStore
from service.settings import Settings
from service.storage import Storage
from service.uploads.reception import Probe, Reception, sweep

SHUTDOWN_SECONDS = 10
"""What requests under way get to end in; a download cut off can be continued, and so can an upload in pieces."""

LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}

log = logging.getLogger(__name__)


def probe(slide: Path) -> Mapping[str, Any]:
    """Look into a slide in a process of its own; see `service.runner.probe`."""
    from service.runner import probe as probe_in_subprocess

    return probe_in_subprocess(slide)


def create_app(settings: Settings, probe: Probe = probe) -> FastAPI:
    """Make the application of a data folder; opens (and if need be makes) the folder and its database.

    Parameters
    ----------
    probe
        Tells a slide's facts, and refuses what is none; see `service.uploads.reception.Probe`.
    """
    storage = Storage(settings.data_dir, disk_reserve_bytes=settings.disk_reserve_bytes)
    store = SqlStore(settings.database, lease_seconds=settings.lease_seconds)
    reception = Reception(settings, store, storage, probe)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        storage.sweep(store)
        sweep(reception)
        yield
        reception.close()
        store.close()

    app = FastAPI(
        title="slidelift",
        summary="Super-resolution for whole-slide histology images.",
        description="Upload a slide, post a job, poll it, download a pyramid. Errors are problems (RFC 9457).",
        version=_version(),
        docs_url=None,  # FastAPI's pages load scripts from a CDN, which a hospital's network may not have
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = Context(settings, store, storage, reception)
    problems.install(app)
    for room in (slides, uploads, jobs, catalog, health):
        app.include_router(room.router)
    return app


def serve(settings: Settings, probe: Probe = probe) -> None:
    """Run the API until a signal; requests are not logged, since an upload's address holds the slide's name."""
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("listening on %s: whoever reaches it can read every slide and result", settings.host)
    uvicorn.run(
        create_app(settings, probe),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=LOG_CONFIG,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def _version() -> str:
    try:
        return version("slidelift")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
