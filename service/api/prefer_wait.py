"""Long polling (RFC 7240, `Prefer: wait`)."""

import re
import time
from typing import Annotated

import anyio
from fastapi import Header
from starlette.concurrency import run_in_threadpool

from slidelift.service.api.context import Context
from slidelift.service.uploads.upload import UploadState, UploadStatus

WAIT_MAX_SECONDS = 60
"""Proxies close connections that are silent for longer."""
_POLL_SECONDS = 0.2
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:[,;]|$)", re.ASCII | re.IGNORECASE)


def wait_seconds(prefer: str | None) -> int:
    """Seconds that the client is willing to wait; 0 without a valid preference."""
    match = _WAIT.search(prefer or "")
    return min(int(match[1]), WAIT_MAX_SECONDS) if match else 0


Prefer = Annotated[
    str | None, Header(description="`wait=30`: respond at the end, or after that many seconds, at most 60.")
]


async def wait_for_upload(context: Context, upload_id: str, seconds: int) -> UploadStatus:
    """Return an upload when it has become a slide or failed, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await run_in_threadpool(context.upload_service.inbox.status, upload_id)
        settled = seen.state in (UploadState.LANDED, UploadState.FAILED)
        if settled or time.monotonic() >= deadline or context.job_changes.is_closed:
            return seen
        await anyio.sleep(_POLL_SECONDS)
