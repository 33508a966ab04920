"""Downloads a result: continued after an interruption, verified by SHA-256, then renamed into place."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from slidelift.durable import sync_folder
from slidelift.service.client.connection import Answer, Connection
from slidelift.service.client.errors import (
    ClientError,
    IntegrityError,
    UnexpectedAnswerError,
    UnreachableError,
    UnusableError,
)
from slidelift.service.client.uploads import OnBytes
from slidelift.service.client.values import JobResult

_PIECE_BYTES = 2**20


def download(
    connection: Connection, result: JobResult, path: Path, on_progress: OnBytes | None, *, overwrite: bool
) -> Path:
    """Download a result; see `Client.download`."""
    check_free(path, overwrite=overwrite)
    part = path.with_name(f"{path.name}.part")
    with _locked(part) as file:
        is_continued = file.seek(0, os.SEEK_END) > 0
        is_whole = _fetch(connection, result, file, on_progress)
        if not is_whole and is_continued:  # the file may have begun as another result
            file.truncate(0)
            is_whole = _fetch(connection, result, file, on_progress)
        if not is_whole:
            part.unlink()
            raise IntegrityError(
                f"{path.name}: the SHA-256 of the download differs from the service's, and the file was deleted; "
                "download it again, and if the error repeats, check proxies between this machine and the service"
            )
        os.fsync(file.fileno())
        check_free(path, overwrite=overwrite)
        part.replace(path)
    sync_folder(path.parent)
    return path


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise UnusableError if the folder is missing or the file exists."""
    if not path.absolute().parent.is_dir():
        raise UnusableError(f"{path.parent}: no such folder")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UnusableError(f"{path} already exists; choose another name, or move the file away")


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open the partial file with an exclusive lock."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = part.exists() and os.path.samestat(os.fstat(descriptor), part.stat())
        except BlockingIOError:
            is_mine = False
        if not is_mine:
            raise UnusableError(f"{part}: another process is downloading it; wait for that, or choose another name")
        yield file


def _fetch(connection: Connection, result: JobResult, file: BinaryIO, on_progress: OnBytes | None) -> bool:
    """Download until the file has its full length; return whether its hash is the result's."""
    received = _Received(file)
    retry = connection.retry()
    while received.bytes < result.bytes:
        headers = {"Accept-Encoding": "identity"}
        if received.bytes:
            headers |= {"Range": f"bytes={received.bytes}-", "If-Range": f'"{result.sha256}"'}
        try:
            with connection.stream("GET", result.href, headers=headers) as answer:
                if received.bytes and not _continues(answer, received.bytes):
                    file.truncate(0)
                    received = _Received(file)
                for piece in answer.iter_bytes():
                    received.add(piece)
                    retry.reset()
                    if on_progress:
                        on_progress(received.bytes, result.bytes)
            if received.bytes < result.bytes:
                raise UnreachableError(f"{connection.address} closed the connection before the end of the file")
        except ClientError as error:
            retry.wait(error)
    file.flush()
    return received.bytes == result.bytes and received.hash.hexdigest() == result.sha256


class _Received:
    """Number and hash of the bytes that a partial file holds."""

    def __init__(self, file: BinaryIO) -> None:
        self.hash, self._file = hashlib.sha256(), file
        file.seek(0)
        while piece := file.read(_PIECE_BYTES):
            self.hash.update(piece)
        self.bytes = file.tell()

    def add(self, piece: bytes) -> None:
        self._file.write(piece)
        self.hash.update(piece)
        self.bytes += len(piece)


def _continues(answer: Answer, offset: int) -> bool:
    """Whether the answer continues at the end of the file; False if it is the whole result."""
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        return False
    if not answer.headers.get("content-range", "").startswith(f"bytes {offset}-"):
        raise UnexpectedAnswerError("the service sent another part of the file than requested")
    return True
