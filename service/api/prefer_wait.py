"""Answers that wait a while (RFC 7240, `Prefer: wait`)."""

import re
import time
from typing import Annotated

import anyio
from fastapi import Header
from starlette.concurrency import run_in_threadpool

from slidelift.service.api.context import Context
from slidelift.service.uploads.upload import UploadState, UploadStatus

WAIT_MAX_SECONDS = 60
"""Proxies end what is silent for longer."""
_LOOK_SECONDS = 0.2
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:[,;]|$)", re.ASCII | re.IGNORECASE)


def wait_seconds(prefer: str | None) -> int:
    """How long the client likes to wait; 0 where it does not say so, and what can't be understood is no preference."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), WAIT_MAX_SECONDS) if found else 0


Prefer = Annotated[
    str | None, Header(description="`wait=30`: answer when it has ended, or after so many seconds, at most 60.")
]


async def wait_for_upload(context: Context, upload_id: str, seconds: int) -> UploadStatus:
    """Look at an upload when it has landed or failed, or when the time is over."""
    end = time.monotonic() + seconds
    while True:
        seen = await run_in_threadpool(context.upload_service.inbox.status, upload_id)
        settled = seen.state in (UploadState.LANDED, UploadState.FAILED)
        if settled or time.monotonic() >= end or context.job_changes.is_closed:
            return seen
        await anyio.sleep(_LOOK_SECONDS)
