"""File responses that survive the deletion of the file while it is sent."""

import os
import stat
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from slidelift.service.errors import ServiceError


class OpenFileResponse(FileResponse):
    """A response that opens its file before it begins, and holds the descriptor until it ends.

    Parameters
    ----------
    gone
        Raised before anything is sent if the file does not exist any more.
    """

    def __init__(
        self, path: Path, gone: ServiceError, *, headers: dict[str, str], media_type: str, filename: str | None = None
    ) -> None:
        super().__init__(path, headers=headers, media_type=media_type, filename=filename)
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file. `FileResponse` opens it by name, so that it gets the name of the open descriptor."""
        descriptor = await run_in_threadpool(self._open)
        try:
            self.stat_result = os.fstat(descriptor)
            self.set_stat_headers(self.stat_result)
            self.path = f"/proc/self/fd/{descriptor}"
            await super().__call__(scope, receive, send)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise self._gone from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._gone
        return descriptor
