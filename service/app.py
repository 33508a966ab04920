"""The API process: takes slides and orders, hands out results; decodes nothing and holds no model."""

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
"""What requests under way get to end in; a download cut off can be continued, and so can an upload in pieces."""

_DESCRIPTORS = 65536

_DESCRIPTION = (
    "Upload a slide, post a job, poll it or follow its events, download a pyramid. Errors are problems (RFC 9457) with "
    "a stable `code`. The result is a computed image, not for primary diagnosis."
)
_TAGS = [
    {"name": "session", "description": "Signing in from a browser, which then keeps no token."},
    {"name": "slides", "description": "What was uploaded, and what a look into it found."},
    {"name": "uploads", "description": "Slides on their way in, in pieces that survive a broken line (tus 1.0.0)."},
    {"name": "jobs", "description": "One upscale of one slide each."},
    {"name": "batches", "description": "The same job over many slides."},
    {"name": "view", "description": "Slides and results as tiles of Deep Zoom, and what became of each tile."},
    {"name": "models", "description": "What can be asked for."},
    {"name": "health", "description": "For those who keep the service running."},
]

log = logging.getLogger(__name__)


def probe(slide: Path, name: str, between: Callable[[], None]) -> Mapping[str, Any]:
    """Look into a slide in a process of its own; see `service.processes.runner.probe`."""
    from slidelift.service.processes.runner import probe as probe_in_subprocess

    return probe_in_subprocess(slide, name, between)


def create_app(settings: Settings, probe: Probe = probe) -> FastAPI:
    """Make the application of a data folder; opens (and if need be makes) the folder and its database.

    Parameters
    ----------
    probe
        Tells a slide's facts, and refuses what is none; see `service.uploads.slide_intake.Probe`.
    """
    storage = Storage(settings.data_dir, disk_reserve_bytes=settings.disk_reserve_bytes)
    store = open_store(settings)
    keep_private(settings)
    try:
        require_same_identity(storage, store)
    except BaseException:
        store.close()
        raise
    clock = RetentionClock(store)
    counted = Counters(store, storage)
    upload_service = UploadService(settings, store, storage, probe, counted.count_slide, clock.now)
    watch = JobChanges(store, events.writer(settings.root_path))
    readiness = Readiness(settings, store, storage)
    context = Context(settings, store, storage, upload_service, watch, counted, DecoderPool(), TileCache(), readiness)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_keep_sweeping(context, clock))
        yield
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        context.decoders.close()
        upload_service.close()
        store.close()

    app = FastAPI(
        title="slidelift",
        summary="Super-resolution for whole-slide histology images.",
        description=_DESCRIPTION,
        version=_version(),
        docs_url=None,  # FastAPI's pages load scripts from a CDN, which a hospital's network may not have
        redoc_url=None,
        redirect_slashes=False,  # it would send clients to whatever host they named
        lifespan=lifespan,
        openapi_tags=_TAGS,
    )
    app.state.context = context
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
    app.add_middleware(RequestLog, metrics=counted)
    if settings.root_path:
        app.add_middleware(_UnderPrefix, prefix=settings.root_path)
    for room in (session, deepzoom, slides, uploads, jobs, events, batches, catalog, health, metrics):
        app.include_router(room.router)
    docs.install(app)
    page.install(app)
    return app


async def _keep_sweeping(context: Context, clock: RetentionClock) -> None:
    """Now and every while, in a thread; whatever goes wrong is logged and tried again."""
    while True:
        try:
            await run_in_threadpool(delete_expired, context.settings, context.store, context.storage, clock)
            await run_in_threadpool(context.upload_service.delete_expired)
        except Exception:
            log.exception("deleting expired files failed and is tried again in %g s", context.settings.sweep_seconds)
        await asyncio.sleep(context.settings.sweep_seconds)


class _UnderPrefix:
    """ASGI middleware: puts the application under a path, whether or not the proxy in front has taken that away."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == self._prefix:
            # The page's addresses are relative: without the slash they would lead out of the prefix.
            await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
            return
        if scope["type"] == "http":
            inside = scope["path"].startswith(f"{self._prefix}/")
            scope = {
                **scope,
                "root_path": self._prefix,
                "path": scope["path"] if inside else self._prefix + scope["path"],
            }
        await self._app(scope, receive, send)


def _take_all_descriptors() -> None:
    """Each idle connection costs a file descriptor; the usual soft limit of 1024 is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, _DESCRIPTORS) if hard != resource.RLIM_INFINITY else _DESCRIPTORS
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Server(uvicorn.Server):
    """Lets go, at the first signal, of those who wait for news of a job: they would hold up the stop."""

    def __init__(self, config: uvicorn.Config, watch: JobChanges) -> None:
        super().__init__(config)
        self._watch = watch

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._watch.close()
        super().handle_exit(sig, frame)


def serve(settings: Settings, probe: Probe = probe) -> None:
    """Run the API until a signal.

    Raises
    ------
    ServiceError
        access.unsafe: others than this machine could reach it, and there is no token yet; service.unsuited.
    """
    require_usable(settings)
    app = create_app(settings, probe)
    context: Context = app.state.context
    if settings.asks_for_tokens and not context.store.tokens():
        context.store.close()
        reason = "SLIDELIFT_AUTH=on asks for tokens"
        if not settings.is_private:
            reason = f"{settings.host} can be reached from other machines"
        raise refusal(
            "access.unsafe",
            f"{reason}, and nobody has a token: make one with `slidelift token create --name NAME` first",
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
    _take_all_descriptors()
    return_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them once more when it has stopped: let us go on
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
