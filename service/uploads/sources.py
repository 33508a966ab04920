"""Where a slide may be fetched from: file, s3 and https addresses, each only if the settings allow it.

A source is opened when it is asked for, not when its turn comes: what was checked is what is read.
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
    """Something to copy from; `total_bytes` is None where it does not say. The owner closes the stream."""

    name: str
    total_bytes: int | None
    stream: IO[bytes] | Any  # fsspec's files are no IO to the type checker


@dataclass(frozen=True, slots=True)
class Checked:
    """An address that the settings allow; of a file it holds the open file, of a host the address that was checked."""

    name: str
    _url: SplitResult
    _file: int | None = None
    _host: https.Checked | None = None

    @contextlib.contextmanager
    def opened(
        self, timeout_seconds: float = https.TIMEOUT_SECONDS, hold: https.Hold = lambda _: None
    ) -> Iterator[Source]:
        """Begin to read; raises ServiceError upload.source."""
        if self._file is not None:
            with os.fdopen(self._file, "rb") as file:
                yield Source(self.name, os.fstat(file.fileno()).st_size, file)
        elif self._host is not None:
            with https.get(self._host, timeout_seconds, hold) as (stream, size):
                yield Source(self.name, size, stream)
        else:
            with _s3(self._url) as file:
                yield Source(self.name, file.size, file)

    def close(self) -> None:
        """Let go of what was never opened."""
        if self._file is not None:
            os.close(self._file)


def check(uri: str, name: str | None, settings: Settings) -> Checked:
    """Decide whether the service may read there; looks names up, so it may take seconds.

    Raises
    ------
    ServiceError
        upload.uri-not-allowed, upload.source.
    """
    try:
        url = urlsplit(uri)
        named = name if name is not None else unquote(url.path.rpartition("/")[2], errors="strict")
    except ValueError as error:
        raise refusal("upload.uri-not-allowed", "the address can't be understood") from error
    if url.scheme == "file":
        return Checked(named, url, _file=_open_below(url, settings.upload_roots))
    if url.scheme == "s3" and settings.upload_s3:
        return Checked(named, url)
    if url.scheme == "https" and settings.upload_https:
        return Checked(named, url, _host=https.check(url))
    if url.scheme in ("s3", "https"):
        detail = f"this service does not fetch from {url.scheme} (SLIDELIFT_UPLOAD_{url.scheme.upper()})"
        raise refusal("upload.uri-not-allowed", f"{detail}; upload the file instead")
    raise refusal(
        "upload.uri-not-allowed", "file, s3 and https are the addresses that a service may be allowed to read"
    )


def _open_below(url: SplitResult, roots: tuple[Path, ...]) -> int:
    """Open a regular file below one of the roots, and nothing else, whatever is swapped meanwhile."""
    try:
        wanted = Path(os.path.realpath(unquote(url.path, errors="strict")))
        resolved = [Path(os.path.realpath(root)) for root in roots]
        found = [root for root in resolved if wanted != root and wanted.is_relative_to(root)]
    except (ValueError, OSError) as error:  # a NUL, bytes that are no UTF-8, a loop of links
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
        raise refusal("upload.source", f"the file can't be opened ({error.strerror})") from error
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise refusal("upload.source", "that is no regular file; name the slide's file, or an archive of it")
    return file


def _outside() -> ServiceError:
    detail = "file addresses must be absolute and lie within the folders of SLIDELIFT_UPLOAD_ROOTS"
    return refusal("upload.uri-not-allowed", f"{detail}; upload the file instead")


@contextlib.contextmanager
def _s3(url: SplitResult) -> Iterator[Any]:
    try:
        import fsspec

        system = fsspec.filesystem("s3")
    except ImportError as error:
        raise refusal("upload.uri-not-allowed", "s3 needs an extra: pip install 'slidelift[s3]'") from error
    try:
        file = system.open(f"{url.netloc}{url.path}", "rb")
    except Exception as error:  # the libraries below raise their own of many kinds
        raise refusal("upload.source", f"the object can't be read ({type(error).__name__})") from error
    with file:
        yield file
