"""Results fetched whole or not at all: continued after a break, hashed, flushed, then renamed into place."""

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
from slidelift.service.client.uploading import OnBytes
from slidelift.service.client.values import JobResult

_PIECE_BYTES = 2**20


def download(
    connection: Connection, result: JobResult, path: Path, on_progress: OnBytes | None, *, overwrite: bool
) -> Path:
    """Fetch a result; see `Client.download`."""
    check_free(path, overwrite=overwrite)
    part = path.with_name(f"{path.name}.part")
    with _locked(part) as file:
        is_continued = file.seek(0, os.SEEK_END) > 0
        is_whole = _fetched(connection, result, file, on_progress)
        if not is_whole and is_continued:  # what lay there may have been of another result
            file.truncate(0)
            is_whole = _fetched(connection, result, file, on_progress)
        if not is_whole:
            part.unlink()
            raise IntegrityError(
                f"{path.name}: what arrived does not have the SHA-256 that the service says, and was deleted; fetch it "
                "again, and if that repeats look at what stands between here and the service"
            )
        os.fsync(file.fileno())
        check_free(path, overwrite=overwrite)
        part.replace(path)
    sync_folder(path.parent)
    return path


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise UnusableError where a file can't be put."""
    if not path.absolute().parent.is_dir():
        raise UnusableError(f"{path.parent}: no such folder")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UnusableError(f"{path}: is there already; choose another name, or move it away")


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open what has arrived, for one process alone."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = part.exists() and os.path.samestat(os.fstat(descriptor), part.stat())
        except BlockingIOError:
            is_mine = False
        if not is_mine:
            raise UnusableError(f"{part}: another process is fetching this; wait for it, or choose another name")
        yield file


def _fetched(connection: Connection, result: JobResult, file: BinaryIO, on_progress: OnBytes | None) -> bool:
    """Bring the file to its full length; returns whether its hash is the result's."""
    arrived = _Arrived(file)
    patience = connection.patience()
    while arrived.bytes < result.bytes:
        headers = {"Accept-Encoding": "identity"}
        if arrived.bytes:
            headers |= {"Range": f"bytes={arrived.bytes}-", "If-Range": f'"{result.sha256}"'}
        try:
            with connection.stream("GET", result.href, headers=headers) as answer:
                if arrived.bytes and not _continues(answer, arrived.bytes):
                    file.truncate(0)
                    arrived = _Arrived(file)
                for piece in answer.iter_bytes():
                    arrived.add(piece)
                    patience.progressed()
                    if on_progress:
                        on_progress(arrived.bytes, result.bytes)
            if arrived.bytes < result.bytes:
                raise UnreachableError(f"{connection.address} ended its answer before the end of the file")
        except ClientError as error:
            patience.wait(error)
    file.flush()
    return arrived.bytes == result.bytes and arrived.hash.hexdigest() == result.sha256


class _Arrived:
    """What of a file is there, and its hash."""

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
    """Whether the answer begins where the file ends; False where it is the whole again."""
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
        return False
    if not answer.headers.get("content-range", "").startswith(f"bytes {offset}-"):
        raise UnexpectedAnswerError("the service sent another part of the file than it was asked for")
    return True
