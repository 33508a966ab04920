"""Copies a source into an upload, in the background of the API."""

import http.client
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.codes import refusal
from service.errors import ServiceError
from service.storage import CHUNK_BYTES
from service.uploads.closing import Closing
from service.uploads.inbox import Writer
from service.uploads.sources import Checked, Source

if TYPE_CHECKING:
    from service.uploads.reception import Reception

SYNC_EVERY_BYTES = 64 * 2**20


def fetch(checked: Checked) -> "Callable[[Reception, Writer], None]":
    """Make the work of copying what has been checked; the work notes in the upload what goes wrong, and raises it."""

    def work(reception: "Reception", writer: Writer) -> None:
        try:
            with checked.opened() as source:
                _copy(reception, source, writer)
            writer.arrive()
        except Closing:
            writer.close()  # the service stops: the next start says so
            raise
        except ServiceError as error:
            _fail(writer, error)
            raise
        except Exception:
            _fail(writer, refusal("internal", "the service's log says more; the slide was not at fault"))
            raise

    return work


def _fail(writer: Writer, error: ServiceError) -> None:
    if writer.is_cancelled:
        writer.discard()
    else:
        writer.settle(None, error.problem)
        writer.close()


def _copy(reception: "Reception", source: Source, writer: Writer) -> None:
    if source.total_bytes is not None:
        reception.announce(writer, source.total_bytes)
    deadline = time.monotonic() + reception.settings.upload_expiry_seconds
    synced = 0
    while chunk := _read(source):
        reception.raise_if_closing()
        if writer.is_cancelled:
            raise refusal("upload.unknown", "the upload was deleted")
        if time.monotonic() > deadline:
            raise refusal("upload.source", "fetching it took longer than an upload may lie unfinished")
        writer.append(chunk)
        if writer.bytes - synced > SYNC_EVERY_BYTES:  # in steps, so that the end is not one long wait
            writer.sync()
            synced = writer.bytes
    if source.total_bytes is not None and writer.bytes != source.total_bytes:
        detail = f"{writer.bytes} of {source.total_bytes} bytes came; ask again"
        raise refusal("upload.source", detail)


def _read(source: Source) -> bytes:
    try:
        return bytes(source.stream.read(CHUNK_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise refusal("upload.source", f"the source breaks off ({type(error).__name__}); ask again") from error
