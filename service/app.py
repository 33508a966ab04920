"""The API process: accepts slides and jobs, serves results. It decodes no slides and loads no models."""

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from slidelift.service.api import (
    batches,
    deepzoom,
    docs,
    events,
    health,
    jobs,
    metrics,
    page,
    problems,
    session,
    slides,
    uploads,
)
from slidelift.service.api import models as catalog
from slidelift.service.api.access import Access
from slidelift.service.api.body_timeouts import BodyTimeout, DrainBody
from slidelift.service.api.context import Context
from slidelift.service.api.counters import Counters
from slidelift.service.api.job_changes import JobChanges
from slidelift.service.api.readiness import Readiness
from slidelift.service.api.request_log import RequestLog
from slidelift.service.api.tile_cache import TileCache
from slidelift.service.errors import EXIT_FAILED, refusal
from slidelift.service.jobs.open_store import open_store
from slidelift.service.logs import log_config
from slidelift.service.processes.memory import return_freed_memory
from slidelift.service.processes.viewer_pool import DecoderPool
from slidelift.service.settings import Settings
from slidelift.service.storage.data_identity import require_same_identity
from slidelift.service.storage.files import Storage
from slidelift.service.storage.retention import delete_expired
from slidelift.service.storage.retention_clock import RetentionClock
from slidelift.service.storage.start_checks import keep_private, require_usable
from slidelift.service.uploads.slide_intake import Probe
from slidelift.service.uploads.upload_service import UploadService

SHUTDOWN_SECONDS = 10
"""Time for running requests to finish at shutdown; interrupted downloads and tus uploads can be resumed."""

_MAX_OPEN_FILES = 65536

_DESCRIPTION = (
    "Upload a slide, create a job, poll it or stream its events, download the result. Errors are problems (RFC 9457) "
    "with a stable `code`. The result is a computed image and not for primary diagnosis."
)
_TAGS = [
    {"name": "session", "description": "Browser sessions."},
    {"name": "slides", "description": "Uploaded slides and their metadata."},
    {"name": "uploads", "description": "Resumable uploads (tus 1.0.0) and uploads from a URI."},
    {"name": "jobs", "description": "Upscaling jobs, one slide each."},
    {"name": "batches", "description": "The same job for many slides."},
    {"name": "view", "description": "Deep Zoom tiles of slides and results, and the outcome of each tile."},
    {"name": "models", "description": "The available models."},
    {"name": "health", "description": "Health checks and metrics."},
]

log = logging.getLogger(__name__)


def probe(slide: Path, name: str, between: Callable[[], None]) -> Mapping[str, Any]:
    """Read a slide's metadata in a separate process; see `service.processes.runner.probe`."""
    from slidelift.service.processes.runner import probe as probe_in_subprocess

    return probe_in_subprocess(slide, name, between)


def create_app(settings: Settings, probe: Probe = probe) -> FastAPI:
    """Create the application of a data folder; opens the folder and its database, and creates them if necessary.

    Parameters
    ----------
    probe
        Reads a slide's metadata and raises if the file is not a slide; see `service.uploads.slide_intake.Probe`.
    """
    context, clock = _open_context(settings, probe)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep_periodically(context, clock))
        yield
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        context.decoders.close()
        context.upload_service.close()
        context.store.close()

    app = FastAPI(
        title="slidelift",
        summary="Super-resolution for whole-slide histology images.",
        description=_DESCRIPTION,
        version=_version(),
        docs_url=None,  # FastAPI's page loads scripts from a CDN, which a hospital's network may block
        redoc_url=None,
        redirect_slashes=False,  # redirects would go to any host name that the client sent
        lifespan=lifespan,
        openapi_tags=_TAGS,
    )
    app.state.context = context
    _add_middleware(app, settings, context.counters)
    for module in (session, deepzoom, slides, uploads, jobs, events, batches, catalog, health, metrics):
        app.include_router(module.router)
    docs.install(app)
    page.install(app)
    return app


def _open_context(settings: Settings, probe: Probe) -> tuple[Context, RetentionClock]:
    storage = Storage(settings.data_dir, disk_reserve_bytes=settings.disk_reserve_bytes)
    store = open_store(settings)
    keep_private(settings)
    try:
        require_same_identity(storage, store)
    except BaseException:
        store.close()
        raise
    clock = RetentionClock(store)
    counters = Counters(store, storage)
    context = Context(
        settings=settings,
        store=store,
        storage=storage,
        upload_service=UploadService(settings, store, storage, probe, counters.count_slide, clock.now),
        job_changes=JobChanges(store, events.encoder(settings.root_path)),
        counters=counters,
        decoders=DecoderPool(),
        tile_cache=TileCache(),
        readiness=Readiness(settings, store, storage),
    )
    return context, clock


def _add_middleware(app: FastAPI, settings: Settings, counters: Counters) -> None:
    """Add the middleware from the innermost to the outermost."""
    problems.install(app)
    app.add_middleware(Access)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(BodyTimeout)
    app.add_middleware(RequestLog, counters=counters)
    if settings.root_path:
        app.add_middleware(_PathPrefix, prefix=settings.root_path)


async def _sweep_periodically(context: Context, clock: RetentionClock) -> None:
    """Delete what has expired, now and every `sweep_seconds`; errors are logged."""
    while True:
        try:
            await run_in_threadpool(delete_expired, context.settings, context.store, context.storage, clock)
            await run_in_threadpool(context.upload_service.delete_expired)
        except Exception:
            log.exception("deleting expired files failed; next attempt in %g s", context.settings.sweep_seconds)
        await asyncio.sleep(context.settings.sweep_seconds)


class _PathPrefix:
    """ASGI middleware: serves the application under a path, whether or not the proxy removes that path."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == self._prefix:
            # The page's links are relative: without the slash they would leave the prefix.
            await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
            return
        if scope["type"] == "http":
            has_prefix = scope["path"].startswith(f"{self._prefix}/")
            scope = {
                **scope,
                "root_path": self._prefix,
                "path": scope["path"] if has_prefix else self._prefix + scope["path"],
            }
        await self._app(scope, receive, send)


def _raise_open_file_limit() -> None:
    """Raise the limit of open files: each idle connection uses one, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, _MAX_OPEN_FILES) if hard != resource.RLIM_INFINITY else _MAX_OPEN_FILES
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class _Server(uvicorn.Server):
    """Releases requests that wait for job changes at the first signal; they would delay the shutdown."""

    def __init__(self, config: uvicorn.Config, job_changes: JobChanges) -> None:
        super().__init__(config)
        self._job_changes = job_changes

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._job_changes.close()
        super().handle_exit(sig, frame)


def serve(settings: Settings, probe: Probe = probe) -> None:
    """Run the API until a signal.

    Raises
    ------
    ServiceError
        access.unsafe: other machines could reach it and no token exists; service.unsuited.
    """
    require_usable(settings)
    app = create_app(settings, probe)
    context: Context = app.state.context
    if settings.asks_for_tokens and not context.store.tokens():
        context.store.close()
        reason = "SLIDELIFT_AUTH=on requires tokens"
        if not settings.is_private:
            reason = f"{settings.host} can be reached from other machines"
        raise refusal(
            "access.unsafe",
            f"{reason}, and no token exists: create one with `slidelift token create --name NAME` first",
        )
    config = uvicorn.Config(
        DrainBody(app),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=log_config(settings.log_format),
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    _raise_open_file_limit()
    return_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after it has stopped
        signal.signal(number, signal.SIG_IGN)
    server = _Server(config, context.job_changes)
    server.run()
    if not server.started:
        raise SystemExit(EXIT_FAILED)


def _version() -> str:
    try:
        return version("slidelift")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
