"""Resumable uploads by tus 1.0 (https://tus.io/protocols/resumable-upload), in chunks with a checksum.

After each failure the service is asked for its offset, so nothing is sent twice. A chunk, of 64 MiB at most, is held in
memory, since its hash is sent before it. If the server does not support tus, a single PUT sends everything.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from slidelift.service.client.connection import FOREIGN_ANSWER, Answer, Connection, Retry, member, parse_json
from slidelift.service.client.errors import (
    ClientError,
    IntegrityError,
    ServiceRefusedError,
    UnexpectedAnswerError,
    UnreachableError,
)
from slidelift.service.client.upload_record import UploadRecord
from slidelift.service.client.upload_source import RunningDigest, UploadSource
from slidelift.service.client.values import Slide, from_json, parse_problem
from slidelift.service.errors import Problem

OnBytes = Callable[[int, int], None]
"""Called with the number of bytes that have arrived and the total."""
_TUS = {"Tus-Resumable": "1.0.0"}
_LEAST_CHUNK_BYTES, _FIRST_CHUNK_BYTES, _GREATEST_CHUNK_BYTES = 2**20, 2**22, 2**26
_CHUNK_SECONDS = 2.0
"""Aimed-at duration of a chunk: little is lost if the connection breaks, and a progress bar moves."""
_POLL_SECONDS = 0.5
_PIECE_BYTES = 2**20
_NO_TUS = {404, 405, 501}
_GONE = {404, 410}
_WRONG_OFFSET = 409
_PERMANENT = {413, 415, 422}


class Upload:
    """Upload of one slide."""

    def __init__(
        self, connection: Connection, source: UploadSource, record: UploadRecord, on_progress: OnBytes | None
    ) -> None:
        self._connection, self._source, self._record = connection, source, record
        self._on_progress = on_progress or _ignore_progress
        self._digest = RunningDigest(source)
        self._chunk_bytes, self._greatest_chunk_bytes = _FIRST_CHUNK_BYTES, _GREATEST_CHUNK_BYTES

    def run(self) -> Slide:
        """Send what the service does not have yet, and return the slide.

        Raises
        ------
        ServiceRefusedError
            The file is not a slide, is too large, exceeds the quota …
        UnreachableError
            The service did not answer in time; another call continues the upload.
        IntegrityError
            The file changed while it was sent, or the service received other bytes.
        """
        try:
            slide_id = self._by_tus()
        except ServiceRefusedError as error:
            if not isinstance(error, _NoTusError):
                raise
            slide = self._by_put()
        else:
            slide = from_json(
                Slide, self._connection.json("GET", self._connection.path(f"/v1/slides/{quote(slide_id)}"))
            )
        self._record.delete()
        if not self._source.is_unchanged():
            raise IntegrityError(
                f"{self._source.name} changed while it was sent, so slide {slide.id} of the service may mix both "
                "versions; delete that slide and upload the file again"
            )
        # The hash of a bundle's slide is not that of the tar, which was verified chunk by chunk.
        if not self._source.is_bundle and slide.sha256 != self._digest.finish().hex():
            raise IntegrityError(
                f"{self._source.name}: slide {slide.id} of the service differs from the local file; "
                "delete that slide and upload the file again"
            )
        return slide

    def _by_tus(self) -> str:
        retry = self._connection.retry()
        upload = self._record.load()
        offset, slide = self._status(upload, retry) if upload else (None, None)
        while slide is None:
            if upload is None or offset is None:
                upload, offset = self._create(), 0
            self._on_progress(offset, self._source.bytes)
            try:
                offset, slide = self._send_chunk(upload, offset)
            except ClientError as error:
                self._wait(error, retry)
                offset, slide = self._status(upload, retry)
            else:
                retry.reset()
                if slide is None and offset == self._source.bytes:
                    offset, slide = self._status(upload, retry)
        self._on_progress(self._source.bytes, self._source.bytes)
        return slide

    def _create(self) -> str:
        """Create an upload and return its path."""
        name = base64.b64encode(self._source.name.encode()).decode()
        headers = {**_TUS, "Upload-Length": str(self._source.bytes), "Upload-Metadata": f"filename {name}"}
        try:
            answer = self._connection.request("POST", self._connection.path("/v1/uploads"), headers=headers)
        except ServiceRefusedError as error:
            raise _NoTusError(error.problem) if error.problem.status in _NO_TUS else error from error
        if "location" not in answer.headers:
            raise UnexpectedAnswerError(
                "the service accepted the upload without giving its address; is it a slidelift service?"
            )
        path = urlsplit(answer.headers["location"]).path
        self._record.save(path)
        return path

    def _send_chunk(self, upload: str, offset: int) -> tuple[int, str | None]:
        """Send one chunk; return the new offset, and the slide's id after the last chunk."""
        chunk = self._source.read(offset, self._chunk_bytes)
        headers = {
            **_TUS,
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(len(chunk)),
            "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {base64.b64encode(hashlib.sha256(chunk).digest()).decode()}",
        }
        started = time.monotonic()
        try:
            answer = self._connection.send_once("PATCH", upload, headers=headers, content=_pieces(chunk))
        except ClientError as error:
            self._chunk_bytes = max(_LEAST_CHUNK_BYTES, self._chunk_bytes // 2)
            if not _is_too_much_for_a_proxy(error) or len(chunk) <= _LEAST_CHUNK_BYTES:
                raise
            self._greatest_chunk_bytes = self._chunk_bytes
            raise UnreachableError(f"a chunk of {len(chunk)} bytes is too large for a proxy") from error
        seconds = time.monotonic() - started
        if len(chunk) == self._chunk_bytes:
            factor = 2 if seconds < _CHUNK_SECONDS / 2 else 0.5 if seconds > _CHUNK_SECONDS * 2 else 1
            self._chunk_bytes = min(
                max(_LEAST_CHUNK_BYTES, int(self._chunk_bytes * factor)), self._greatest_chunk_bytes
            )
        arrived = _offset(answer)
        self._digest.advance_to(min(arrived, self._source.bytes))
        slide: str | None = answer.headers.get("slide-id")
        if not chunk and slide is None:  # an empty chunk restarts the checks of a service that was stopped before them
            raise UnreachableError("the upload is complete, but the service has not checked it")
        return arrived, slide

    def _status(self, upload: str, retry: Retry) -> tuple[int | None, str | None]:
        """Ask for the offset of an upload (None if it is gone), and the id of its slide if it is complete.

        Raises
        ------
        ServiceRefusedError
            The service did not accept the file as a slide.
        """
        try:
            while True:
                status = self._connection.json("GET", upload)
                state = member(status, "state")
                if state == "landed":
                    slide = member(status, "slide")
                    return self._source.bytes, str(slide["id"] if isinstance(slide, Mapping) else slide)
                if state == "failed":
                    self._record.delete()
                    raise ServiceRefusedError(_problem(status))
                if state == "arriving":
                    return _offset(self._connection.request("HEAD", upload, headers=_TUS)), None
                retry.reset()  # checking 20 GB takes minutes
                time.sleep(_POLL_SECONDS)
        except ServiceRefusedError as error:
            if error.problem.status not in _GONE:
                raise
            self._record.delete()
            return None, None

    def _wait(self, error: ClientError, retry: Retry) -> None:
        """Pause before another attempt; a wrong offset or a deleted upload is then resolved by asking the service."""
        if isinstance(error, ServiceRefusedError) and error.problem.status in {_WRONG_OFFSET, *_GONE}:
            error = UnreachableError(f"the upload continues at another offset: {error}")
        if isinstance(error, ServiceRefusedError) and error.problem.status in _PERMANENT:
            self._record.delete()  # so that the next process does not continue it
        retry.wait(error)

    def _by_put(self) -> Slide:
        """Send everything in one request; after a failure, look for the slide before sending it again."""
        sha256 = self._digest.finish()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(self._source.bytes),
            "Repr-Digest": f"sha-256=:{base64.b64encode(sha256).decode()}:",
        }
        path = self._connection.path(f"/v1/slides/{quote(self._source.name, safe='')}")
        retry = self._connection.retry()
        while True:
            try:
                answer = self._connection.send_once("PUT", path, headers=headers, content=self._pieces_with_progress())
                return from_json(Slide, parse_json(answer))
            except ClientError as error:
                is_incomplete = isinstance(error, ServiceRefusedError) and error.problem.code == "upload.incomplete"
                retry.wait(UnreachableError(str(error)) if is_incomplete else error)
            newest = member(self._connection.json("GET", self._connection.path("/v1/slides")), "slides")
            for slide in newest:
                if (slide["name"], slide["sha256"]) == (self._source.name, sha256.hex()):
                    return from_json(Slide, slide)

    def _pieces_with_progress(self) -> Iterator[bytes]:
        for offset in range(0, self._source.bytes, _PIECE_BYTES):
            yield self._source.read(offset, _PIECE_BYTES)
            self._on_progress(min(offset + _PIECE_BYTES, self._source.bytes), self._source.bytes)


def _is_too_much_for_a_proxy(error: ClientError) -> bool:
    """Whether a proxy sent this 413; nginx allows bodies of 1 MiB by default."""
    return (
        isinstance(error, ServiceRefusedError)
        and error.problem.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        and error.problem.code == FOREIGN_ANSWER
    )


def _problem(upload: Any) -> Problem:
    try:
        return parse_problem(member(upload, "error"))
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswerError("the upload failed, and the service gives no reason") from error


def _ignore_progress(_arrived: int, _total: int) -> None:
    """Default of `on_progress`."""


class _NoTusError(ServiceRefusedError):
    """The server does not support tus, or a proxy blocks it."""


def _pieces(chunk: bytes) -> Iterator[bytes]:
    """Split a chunk, so that the write timeout applies to 1 MiB at a time."""
    for start in range(0, len(chunk), _PIECE_BYTES):
        yield chunk[start : start + _PIECE_BYTES]


def _offset(answer: Answer) -> int:
    text = answer.headers.get("upload-offset", "")
    if not (text.isascii() and text.isdigit()):
        raise UnexpectedAnswerError("the service does not state the offset of the upload; is it a slidelift service?")
    return int(text)
