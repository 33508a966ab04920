"""Files as answers: opened before an answer begins, so that what is deleted meanwhile is sent whole or refused."""

import os
import stat
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from slidelift.service.errors import ServiceError


class OpenedFile(FileResponse):
    """A file that may go at any time. Owns its descriptor from the first byte of the answer to the last.

    Parameters
    ----------
    gone
        Raised where there is no such file any more, before anything is sent.
    """

    def __init__(
        self, path: Path, gone: ServiceError, *, headers: dict[str, str], media_type: str, filename: str | None = None
    ) -> None:
        super().__init__(path, headers=headers, media_type=media_type, filename=filename)
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `FileResponse`, which opens what it is told by name: here the name of what is open already."""
        descriptor = await run_in_threadpool(self._opened)
        try:
            self.stat_result = os.fstat(descriptor)
            self.set_stat_headers(self.stat_result)
            self.path = f"/proc/self/fd/{descriptor}"
            await super().__call__(scope, receive, send)
        finally:
            os.close(descriptor)

    def _opened(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise self._gone from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._gone
        return descriptor
