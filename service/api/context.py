"""What every room of routes is given: settings, store, storage, and where uploads come in."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.jobs.store import Store
from service.settings import Settings
from service.storage import Storage
from service.uploads.reception import Reception


@dataclass(frozen=True, slots=True)
class Context:
    """Made once with the application, handed to routes by dependency."""

    settings: Settings
    store: Store
    storage: Storage
    reception: Reception


def _of_request(request: Request) -> Context:
    return cast(Context, request.app.state.context)


InContext = Annotated[Context, Depends(_of_request)]
