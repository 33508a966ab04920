"""Objects that all routes share."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from slidelift.service.api.counters import Counters
from slidelift.service.api.job_changes import JobChanges
from slidelift.service.api.readiness import Readiness
from slidelift.service.api.tile_cache import TileCache
from slidelift.service.jobs.store import Store
from slidelift.service.processes.viewer_pool import DecoderPool
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage
from slidelift.service.uploads.upload_service import UploadService


@dataclass(frozen=True, slots=True)
class Context:
    """Created with the application and injected into routes."""

    settings: Settings
    store: Store
    storage: Storage
    upload_service: UploadService
    job_changes: JobChanges
    counters: Counters
    decoders: DecoderPool
    tile_cache: TileCache
    readiness: Readiness
    clock: Callable[[], float] = time.time


async def _of_request(request: Request) -> Context:  # async, so that it runs without a thread
    return cast(Context, request.app.state.context)


InContext = Annotated[Context, Depends(_of_request)]
