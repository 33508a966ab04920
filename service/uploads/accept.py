"""From bytes that have arrived to a slide: hash, unpack, probe, move, commit. Done twice it does the same once."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slidelift.service.errors import Problem, ServiceError, problem, refusal
from slidelift.service.jobs.quotas import Limits
from slidelift.service.jobs.slide import Slide, SlideFacts
from slidelift.service.processes.runner import unpack
from slidelift.service.storage.files import full_disk_said, remove
from slidelift.service.uploads.closing import Closing
from slidelift.service.uploads.inbox import Upload, Writer
from slidelift.service.uploads.names import Bundle, stored_file_name
from slidelift.service.uploads.promises import claimed_bytes
from slidelift.service.uploads.turns import SentBackError

if TYPE_CHECKING:
    from slidelift.service.uploads.upload_service import UploadService

UNPACKED_TO_UPLOADED = 2
"""An unpacked slide may be so many times the largest upload: scanners compress, so an archive saves little."""


@dataclass(frozen=True, slots=True)
class Landed:
    """Bytes that have arrived whole, laid out as a slide in a folder of their own; `file` is the main one in it."""

    folder: Path
    file: str
    bytes: int
    sha256: str


def finish(upload_service: "UploadService", writer: Writer, between: Callable[[], None]) -> Slide:
    """Make the slide of an upload that has arrived, note what became of it, and close the writer.

    Parameters
    ----------
    between
        Called again and again; where it raises SentBackError, the writer stays open and all can be done once more.

    Raises
    ------
    ServiceError
        upload.empty, upload.bundle, slide.multi-file, storage.full, or what the probe says.
    """
    upload, is_over = writer.upload, True

    def check() -> None:
        upload_service.raise_if_closing()
        between()

    try:
        slide = upload_service.store.slide(upload.id)
        if slide is None:
            landed = _laid_out(upload_service, writer, check)
            slide = accept(upload_service, landed, upload, check)
        writer.settle(slide.id, None)
    except Closing:
        raise  # the service stops: the next start finishes
    except SentBackError:
        is_over = False
        raise
    except ServiceError as error:
        found = _kept(writer, error.problem) if error.problem.code == "slide.not-checked" else error.problem
        writer.settle(None, found)
        raise ServiceError(found) from error
    except Exception:
        writer.settle(None, problem("internal", "the service's log says more; the slide was not at fault"))
        raise
    finally:
        if is_over and writer.upload.way.dies_with_its_request:
            writer.discard()
        if is_over:
            writer.close()
    return slide


def _kept(writer: Writer, found: Problem) -> Problem:
    """Keep an upload that nothing is known against, and say how to ask for it again."""
    if writer.upload.way.dies_with_its_request:
        writer.outlive_request()
    how = f"PATCH /v1/uploads/{writer.upload.id} with Upload-Offset: {writer.bytes} and no bytes"
    return replace(found, detail=f"{found.detail}; the upload is kept, {how} looks again")


def accept(upload_service: "UploadService", landed: Landed, upload: Upload, between: Callable[[], None]) -> Slide:
    """Take a slide into the service, whichever way it came: the one place where a Slide is made.

    Raises
    ------
    ServiceError
        What the probe says of the file, in the name that its user gave it; quota.bytes.
    """
    main, name, owner = landed.folder / landed.file, upload.name, upload.owner
    facts = SlideFacts.from_probe(upload_service.probe(main, name, between))
    slide = Slide(upload.id, name, landed.file, landed.bytes, landed.sha256, time.time(), facts, owner)
    limits = Limits.of_owner(upload_service.settings, upload_service.store, owner)
    upload_service.storage.adopt(landed.folder, slide, upload_service.store, partial(limits.admit_bytes, slide.bytes))
    upload_service.on_slide(slide)
    return slide


def _laid_out(upload_service: "UploadService", writer: Writer, between: Callable[[], None]) -> Landed:
    name, folder = writer.upload.name, writer.folder / "slide"
    if not writer.bytes:
        raise refusal("upload.empty", "nothing arrived; send the slide's file as it is: curl -T slide.svs URL")
    remove(folder)
    with full_disk_said():
        folder.mkdir()
    sha256 = writer.sha256(between)
    bundle = Bundle.of(name)
    if bundle is None:
        file = stored_file_name(name)
        os.link(writer.data, folder / file)  # a second name, not a move: after a crash all is still here
    else:
        file = _unpacked(upload_service, writer, bundle, folder, between)
    return Landed(folder, file, writer.bytes, sha256)


def _unpacked(
    upload_service: "UploadService", writer: Writer, bundle: Bundle, folder: Path, between: Callable[[], None]
) -> str:
    claimed = claimed_bytes(upload_service.inbox.unfinished(), writer.upload.owner)
    free = upload_service.storage.free_bytes() - upload_service.storage.disk_reserve_bytes - claimed
    most = UNPACKED_TO_UPLOADED * upload_service.settings.max_upload_bytes
    return unpack(
        *(writer.data, bundle, folder),
        name=writer.upload.name,
        most_bytes=most,
        free_bytes=max(0, free),
        between=between,
    )
