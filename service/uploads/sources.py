"""Sources that slides are fetched from: file, s3 and https addresses, if the settings allow them.

A file is opened when its address is checked, not when the fetch begins, so the file that was checked is the file that
is read.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

from slidelift.service.errors import ServiceError, refusal
from slidelift.service.settings import Settings
from slidelift.service.uploads import https


@dataclass(frozen=True, slots=True)
class Source:
    """An open source; `total_bytes` is None if unknown."""

    name: str
    total_bytes: int | None
    stream: IO[bytes] | Any  # fsspec's files are no IO to the type checker


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """An address that the settings allow, with the open file or the checked host."""

    name: str
    _url: SplitResult
    _file: int | None = None
    _host: https.CheckedHost | None = None

    @contextlib.contextmanager
    def opened(
        self, timeout_seconds: float = https.TIMEOUT_SECONDS, on_socket: https.OnSocket = lambda _: None
    ) -> Iterator[Source]:
        """Open the source for reading; raises ServiceError upload.source."""
        if self._file is not None:
            with os.fdopen(self._file, "rb") as file:
                yield Source(self.name, os.fstat(file.fileno()).st_size, file)
        elif self._host is not None:
            with https.get(self._host, timeout_seconds, on_socket) as (stream, size):
                yield Source(self.name, size, stream)
        else:
            with _s3(self._url) as file:
                yield Source(self.name, file.size, file)

    def close(self) -> None:
        """Close a source that is not read."""
        if self._file is not None:
            os.close(self._file)


def check(uri: str, name: str | None, settings: Settings) -> CheckedSource:
    """Check whether the service may read an address; resolves host names, which may take seconds.

    Raises
    ------
    ServiceError
        upload.uri-not-allowed, upload.source.
    """
    try:
        url = urlsplit(uri)
        named = name if name is not None else unquote(url.path.rpartition("/")[2], errors="strict")
    except ValueError as error:
        raise refusal("upload.uri-not-allowed", "the address is malformed") from error
    if url.scheme == "file":
        return CheckedSource(named, url, _file=_open_below(url, settings.upload_roots))
    if url.scheme == "s3" and settings.upload_s3:
        return CheckedSource(named, url)
    if url.scheme == "https" and settings.upload_https:
        return CheckedSource(named, url, _host=https.check(url))
    if url.scheme in ("s3", "https"):
        detail = f"this service does not fetch from {url.scheme} addresses (SLIDELIFT_UPLOAD_{url.scheme.upper()})"
        raise refusal("upload.uri-not-allowed", f"{detail}; upload the file instead")
    raise refusal(
        "upload.uri-not-allowed",
        "unsupported address; a service can fetch from file, s3 and https addresses",
    )


def _open_below(url: SplitResult, roots: tuple[Path, ...]) -> int:
    """Open a regular file below one of the roots; files or folders replaced by links meanwhile are not followed."""
    try:
        wanted = Path(os.path.realpath(unquote(url.path, errors="strict")))
        resolved = [Path(os.path.realpath(root)) for root in roots]
        found = [root for root in resolved if wanted != root and wanted.is_relative_to(root)]
    except (ValueError, OSError) as error:  # a NUL, invalid UTF-8, a loop of links
        raise _outside() from error
    if url.netloc not in ("", "localhost") or url.query or url.fragment or not found:
        raise _outside()
    folder = os.open(found[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *folders, last = wanted.relative_to(found[0]).parts
        for part in folders:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = deeper
        file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise refusal("upload.source", f"the file cannot be opened ({error.strerror})") from error
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise refusal("upload.source", "not a regular file; send the address of a slide file or an archive")
    return file


def _outside() -> ServiceError:
    detail = "file addresses must be absolute and below the folders of SLIDELIFT_UPLOAD_ROOTS"
    return refusal("upload.uri-not-allowed", f"{detail}; upload the file instead")


@contextlib.contextmanager
def _s3(url: SplitResult) -> Iterator[Any]:
    try:
        import fsspec

        system = fsspec.filesystem("s3")
    except ImportError as error:
        raise refusal(
            "upload.uri-not-allowed", "s3 addresses need an optional dependency: pip install 'slidelift[s3]'"
        ) from error
    try:
        file = system.open(f"{url.netloc}{url.path}", "rb")
    except Exception as error:  # the libraries raise many types
        raise refusal("upload.source", f"the object cannot be read ({type(error).__name__})") from error
    with file:
        yield file
