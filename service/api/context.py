"""What every room of routes is given: settings, store, storage, where uploads come in, who waits, what is counted,
who looks at slides, what is ready.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from service.api.watching import Watch
from service.jobs.store import Store
from service.looking import Lookers
from service.settings import Settings
from service.storage import Storage
from service.uploads.reception import Reception

if TYPE_CHECKING:
    from service.api.deepzoom import Shelf
    from service.api.health import Readiness
    from service.api.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Context:
    """Made once with the application, handed to routes by dependency."""

    settings: Settings
    store: Store
    storage: Storage
    reception: Reception
    watch: Watch
    metrics: "Metrics"
    lookers: Lookers
    shelf: "Shelf"
    readiness: "Readiness"
    clock: Callable[[], float] = time.time


async def _of_request(request: Request) -> Context:  # async: it would take a thread otherwise
    return cast(Context, request.app.state.context)


InContext = Annotated[Context, Depends(_of_request)]
