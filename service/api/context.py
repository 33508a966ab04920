"""What every room of routes is given: settings, store, storage, where uploads come in, who waits, what is counted,
who looks at slides, what is ready.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from slidelift.service.api.job_changes import JobChanges
from slidelift.service.jobs.store import Store
from slidelift.service.processes.viewer_pool import DecoderPool
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage
from slidelift.service.uploads.upload_service import UploadService

if TYPE_CHECKING:
    from slidelift.service.api.deepzoom import TileCache
    from slidelift.service.api.health import Readiness
    from slidelift.service.api.metrics import Counters


@dataclass(frozen=True, slots=True)
class Context:
    """Made once with the application, handed to routes by dependency."""

    settings: Settings
    store: Store
    storage: Storage
    upload_service: UploadService
    job_changes: JobChanges
    counters: "Counters"
    decoders: DecoderPool
    tile_cache: "TileCache"
    readiness: "Readiness"
    clock: Callable[[], float] = time.time


async def _of_request(request: Request) -> Context:  # async: it would take a thread otherwise
    return cast(Context, request.app.state.context)


InContext = Annotated[Context, Depends(_of_request)]
