"""Uploads that are continued, not begun anew: tus 1.0 (https://tus.io/protocols/resumable-upload), in checked chunks.

The service is asked where it stands after every failure; what it has is never sent again. A chunk is held in memory
whole, at most 64 MiB of it, since its hash goes before it. Where nothing answers tus, one PUT sends the whole.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from slidelift.service.client.connection import FOREIGN, Answer, Connection, Patience, json_of, member
from slidelift.service.client.errors import (
    ClientError,
    IntegrityError,
    ServiceRefusedError,
    UnexpectedAnswerError,
    UnreachableError,
)
from slidelift.service.client.journal import Journal
from slidelift.service.client.upload_source import RunningDigest, UploadSource
from slidelift.service.client.values import Slide, built, problem_of
from slidelift.service.errors import Problem

OnBytes = Callable[[int, int], None]
"""Hears how many bytes have arrived, and of how many."""
_TUS = {"Tus-Resumable": "1.0.0"}
_LEAST_CHUNK_BYTES, _FIRST_CHUNK_BYTES, _GREATEST_CHUNK_BYTES = 2**20, 2**22, 2**26
_CHUNK_SECONDS = 2.0
"""What is lost at most when a line breaks, and often enough for a bar."""
_LOOK_SECONDS = 0.5
_PIECE_BYTES = 2**20
_NO_TUS = {404, 405, 501}
_GONE = {404, 410}
_MISPLACED = 409
_FOR_GOOD = {413, 415, 422}


class Upload:
    """One slide on its way to the service."""

    def __init__(
        self, connection: Connection, parcel: UploadSource, journal: Journal, on_progress: OnBytes | None
    ) -> None:
        self._connection, self._parcel, self._journal = connection, parcel, journal
        self._on_progress = on_progress or _unheard
        self._digest = RunningDigest(parcel)
        self._chunk_bytes, self._greatest_chunk_bytes = _FIRST_CHUNK_BYTES, _GREATEST_CHUNK_BYTES

    def run(self) -> Slide:
        """Send what the service does not have yet; returns the slide that it became.

        Raises
        ------
        ServiceRefusedError
            It is no slide, too large, over the quota …
        UnreachableError
            Patience is over; another call continues.
        IntegrityError
            The file changed while it was sent, or arrived changed.
        """
        try:
            slide_id = self._by_tus()
        except ServiceRefusedError as error:
            if not isinstance(error, _NoTusError):
                raise
            slide = self._by_put()
        else:
            slide = built(Slide, self._connection.json("GET", self._connection.path(f"/v1/slides/{quote(slide_id)}")))
        self._journal.forget()
        if not self._parcel.is_unchanged():
            raise IntegrityError(
                f"{self._parcel.name}: changed while it was sent, so what the service has (slide {slide.id}) may be "
                "half of each; delete that slide and send the file again"
            )
        # A bundle's slide is its files, unpacked; what has checked the tar itself is the hash of each chunk.
        if not self._parcel.is_bundle and slide.sha256 != self._digest.finish().hex():
            raise IntegrityError(
                f"{self._parcel.name}: what the service has (slide {slide.id}) is not what lies here; "
                "delete that slide and send the file again"
            )
        return slide

    def _by_tus(self) -> str:
        patience = self._connection.patience()
        upload = self._journal.remembered()
        offset, slide = self._standing(upload, patience) if upload else (None, None)
        while slide is None:
            if upload is None or offset is None:
                upload, offset = self._begun(), 0
            self._on_progress(offset, self._parcel.bytes)
            try:
                offset, slide = self._advanced(upload, offset)
            except ClientError as error:
                self._wait(error, patience)
                offset, slide = self._standing(upload, patience)
            else:
                patience.progressed()
                if slide is None and offset == self._parcel.bytes:
                    offset, slide = self._standing(upload, patience)
        self._on_progress(self._parcel.bytes, self._parcel.bytes)
        return slide

    def _begun(self) -> str:
        """The path of a new upload."""
        name = base64.b64encode(self._parcel.name.encode()).decode()
        headers = {**_TUS, "Upload-Length": str(self._parcel.bytes), "Upload-Metadata": f"filename {name}"}
        try:
            answer = self._connection.request("POST", self._connection.path("/v1/uploads"), headers=headers)
        except ServiceRefusedError as error:
            raise _NoTusError(error.problem) if error.problem.status in _NO_TUS else error from error
        if "location" not in answer.headers:
            raise UnexpectedAnswerError("the service took the upload and did not say where; is it a slidelift service?")
        path = urlsplit(answer.headers["location"]).path
        self._journal.remember(path)
        return path

    def _advanced(self, upload: str, offset: int) -> tuple[int, str | None]:
        """Send one chunk; returns how much has arrived, and after the last one the slide's id."""
        chunk = self._parcel.read(offset, self._chunk_bytes)
        headers = {
            **_TUS,
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(len(chunk)),
            "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {base64.b64encode(hashlib.sha256(chunk).digest()).decode()}",
        }
        started = time.monotonic()
        try:
            answer = self._connection.once("PATCH", upload, headers=headers, content=_pieces(chunk))
        except ClientError as error:
            self._chunk_bytes = max(_LEAST_CHUNK_BYTES, self._chunk_bytes // 2)
            if not _is_too_much_for_a_proxy(error) or len(chunk) <= _LEAST_CHUNK_BYTES:
                raise
            self._greatest_chunk_bytes = self._chunk_bytes
            raise UnreachableError(f"a chunk of {len(chunk)} bytes is too much for what stands in between") from error
        seconds = time.monotonic() - started
        if len(chunk) == self._chunk_bytes:
            factor = 2 if seconds < _CHUNK_SECONDS / 2 else 0.5 if seconds > _CHUNK_SECONDS * 2 else 1
            self._chunk_bytes = min(
                max(_LEAST_CHUNK_BYTES, int(self._chunk_bytes * factor)), self._greatest_chunk_bytes
            )
        arrived = _offset(answer)
        self._digest.reach(min(arrived, self._parcel.bytes))
        slide: str | None = answer.headers.get("slide-id")
        if not chunk and slide is None:  # sent to wake a service that had stopped before its checks
            raise UnreachableError("all of the upload has arrived, but the service does not go on with it")
        return arrived, slide

    def _standing(self, upload: str, patience: Patience) -> tuple[int | None, str | None]:
        """How much of an upload has arrived (None: it is no more), and the slide that it has become.

        Raises
        ------
        ServiceRefusedError
            What arrived is not taken as a slide.
        """
        try:
            while True:
                found = self._connection.json("GET", upload)
                state = member(found, "state")
                if state == "landed":
                    slide = member(found, "slide")
                    return self._parcel.bytes, str(slide["id"] if isinstance(slide, Mapping) else slide)
                if state == "failed":
                    self._journal.forget()
                    raise ServiceRefusedError(_problem(found))
                if state == "arriving":
                    return _offset(self._connection.request("HEAD", upload, headers=_TUS)), None
                patience.progressed()  # a check of 20 GB takes its minutes
                time.sleep(_LOOK_SECONDS)
        except ServiceRefusedError as error:
            if error.problem.status not in _GONE:
                raise
            self._journal.forget()
            return None, None

    def _wait(self, error: ClientError, patience: Patience) -> None:
        """Before another try; a chunk in the wrong place, or an upload that is gone, is a matter of asking."""
        if isinstance(error, ServiceRefusedError) and error.problem.status in {_MISPLACED, *_GONE}:
            error = UnreachableError(f"the upload goes on elsewhere: {error}")
        if isinstance(error, ServiceRefusedError) and error.problem.status in _FOR_GOOD:
            self._journal.forget()  # the next process need not ask again
        patience.wait(error)

    def _by_put(self) -> Slide:
        """The whole in one request; after a broken line the slide is looked for before it is sent again."""
        sha256 = self._digest.finish()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(self._parcel.bytes),
            "Repr-Digest": f"sha-256=:{base64.b64encode(sha256).decode()}:",
        }
        path = self._connection.path(f"/v1/slides/{quote(self._parcel.name, safe='')}")
        patience = self._connection.patience()
        while True:
            try:
                answer = self._connection.once("PUT", path, headers=headers, content=self._told_pieces())
                return built(Slide, json_of(answer))
            except ClientError as error:
                is_incomplete = isinstance(error, ServiceRefusedError) and error.problem.code == "upload.incomplete"
                patience.wait(UnreachableError(str(error)) if is_incomplete else error)
            newest = member(self._connection.json("GET", self._connection.path("/v1/slides")), "slides")
            for found in newest:
                if (found["name"], found["sha256"]) == (self._parcel.name, sha256.hex()):
                    return built(Slide, found)

    def _told_pieces(self) -> Iterator[bytes]:
        for offset in range(0, self._parcel.bytes, _PIECE_BYTES):
            yield self._parcel.read(offset, _PIECE_BYTES)
            self._on_progress(min(offset + _PIECE_BYTES, self._parcel.bytes), self._parcel.bytes)


def _is_too_much_for_a_proxy(error: ClientError) -> bool:
    """Where the 413 is not the service's own: nginx by default lets no more than a MiB through."""
    return (
        isinstance(error, ServiceRefusedError)
        and error.problem.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        and error.problem.code == FOREIGN
    )


def _problem(upload: Any) -> Problem:
    try:
        return problem_of(member(upload, "error"))
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswerError("the upload failed, and the service does not say why") from error


def _unheard(_arrived: int, _total: int) -> None:
    """For who wants no progress."""


class _NoTusError(ServiceRefusedError):
    """Nothing here speaks tus, or something on the way lets none of it through."""


def _pieces(chunk: bytes) -> Iterator[bytes]:
    """In parts, so that the time limit of a write is one of a MiB."""
    for start in range(0, len(chunk), _PIECE_BYTES):
        yield chunk[start : start + _PIECE_BYTES]


def _offset(answer: Answer) -> int:
    text = answer.headers.get("upload-offset", "")
    if not (text.isascii() and text.isdigit()):
        raise UnexpectedAnswerError("the service does not say how much has arrived; is it a slidelift service?")
    return int(text)
