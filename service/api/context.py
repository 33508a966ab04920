"""What every room of routes is given: settings, store, storage, the probe, and who waits and is counted."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, Request

from service.api.watching import Watch
from service.jobs.store import Store
from service.settings import Settings
from service.storage import Storage

if TYPE_CHECKING:
    from service.api.metrics import Metrics

Probe = Callable[[Path], Mapping[str, Any]]
"""Path of a slide -> its facts as plain values; raises ServiceError. Decodes in a process of its own."""

PROBES_AT_ONCE = 2
"""Each probe is a process with decoders in it; uploads may end together, memory must not."""


@dataclass(frozen=True, slots=True)
class Context:
    """Made once with the application, handed to routes by dependency."""

    settings: Settings
    store: Store
    storage: Storage
    probe: Probe
    watch: Watch
    metrics: "Metrics"
    clock: Callable[[], float] = time.time
    probes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROBES_AT_ONCE))


def _of_request(request: Request) -> Context:
    return cast(Context, request.app.state.context)


InContext = Annotated[Context, Depends(_of_request)]
