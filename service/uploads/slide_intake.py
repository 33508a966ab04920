"""Makes a slide of a complete upload: hash, unpack, probe, move, commit. Repeating it after a crash is safe."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from slidelift.service.errors import Problem, ServiceError, problem, refusal
from slidelift.service.jobs.quotas import Limits
from slidelift.service.jobs.slide import Slide, SlideFacts
from slidelift.service.jobs.store import Store
from slidelift.service.processes.runner import unpack
from slidelift.service.settings import Settings
from slidelift.service.storage.disk import map_disk_full, remove
from slidelift.service.storage.files import Storage
from slidelift.service.uploads.errors import ServiceStoppingError
from slidelift.service.uploads.fair_executor import RequeuedError
from slidelift.service.uploads.inbox import Inbox
from slidelift.service.uploads.names import Bundle, stored_file_name
from slidelift.service.uploads.reservations import reserved_bytes
from slidelift.service.uploads.upload import Upload
from slidelift.service.uploads.writer import Writer

UNPACKED_TO_UPLOADED = 2
"""Size limit of an unpacked slide, in units of the largest upload. Scanners compress, so an archive saves little."""

Probe = Callable[[Path, str, Callable[[], None]], Mapping[str, Any]]
"""Takes the path of a slide, the user's name for it and a function, and returns the slide's facts as plain values;
raises ServiceError. Decodes in a child process and calls the function meanwhile, which may raise to stop."""


@dataclass(frozen=True, slots=True)
class _SlideFolder:
    """A folder with the files of one slide; `file` is the main file, `bytes` and `sha256` belong to the upload."""

    folder: Path
    file: str
    bytes: int
    sha256: str


class SlideIntake:
    """Makes slides of complete uploads.

    Parameters
    ----------
    on_slide
        Called with each new slide.
    raise_if_stopping
        Raises ServiceStoppingError once the service is stopping.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        storage: Storage,
        inbox: Inbox,
        *,
        probe: Probe,
        on_slide: Callable[[Slide], None],
        raise_if_stopping: Callable[[], None],
    ) -> None:
        self._settings, self._store, self._storage, self._inbox = settings, store, storage, inbox
        self._probe, self._on_slide, self._raise_if_stopping = probe, on_slide, raise_if_stopping

    def finish(self, writer: Writer, check: Callable[[], None]) -> Slide:
        """Make a slide of a complete upload, record the outcome and close the writer.

        Parameters
        ----------
        check
            Called repeatedly. If it raises RequeuedError, the writer stays open and `finish` can be called again.

        Raises
        ------
        ServiceError
            upload.empty, upload.bundle, slide.multi-file, storage.full, or an error of the probe.
        """
        is_requeued = False
        try:
            slide = self._slide_of(writer, check)
            writer.set_outcome(slide.id, None)
        except ServiceStoppingError:
            raise  # the next start finishes the upload
        except RequeuedError:
            is_requeued = True
            raise
        except ServiceError as error:
            cause = error.problem
            if cause.code == "slide.not-checked":
                cause = _keep_for_retry(writer, cause)
            writer.set_outcome(None, cause)
            raise ServiceError(cause) from error
        except Exception:
            detail = "the error is in the service's log; the slide is not at fault"
            writer.set_outcome(None, problem("internal", detail))
            raise
        finally:
            if not is_requeued:
                if writer.upload.method.is_single_request:
                    writer.discard()
                writer.close()
        return slide

    def _slide_of(self, writer: Writer, check: Callable[[], None]) -> Slide:
        """Return the slide that was committed before a crash, else make it."""

        def check_both() -> None:
            self._raise_if_stopping()
            check()

        slide = self._store.slide(writer.upload.id)
        if slide is not None:
            return slide
        return self._add_slide(self._prepare(writer, check_both), writer.upload, check_both)

    def _add_slide(self, prepared: _SlideFolder, upload: Upload, check: Callable[[], None]) -> Slide:
        """Probe the slide, move its folder and commit it; messages call it by the user's name."""
        main = prepared.folder / prepared.file
        facts = SlideFacts.from_probe(self._probe(main, upload.name, check))
        slide = Slide(
            upload.id, upload.name, prepared.file, prepared.bytes, prepared.sha256, time.time(), facts, upload.owner
        )
        limits = Limits.of_owner(self._settings, self._store, upload.owner)
        self._storage.add_slide(prepared.folder, slide, self._store, partial(limits.admit_bytes, slide.bytes))
        self._on_slide(slide)
        return slide

    def _prepare(self, writer: Writer, check: Callable[[], None]) -> _SlideFolder:
        """Hash the data, and link or unpack it into a folder."""
        name, folder = writer.upload.name, writer.folder / "slide"
        if not writer.bytes:
            raise refusal("upload.empty", "no bytes were received; send the file itself: curl -T slide.svs URL")
        remove(folder)
        with map_disk_full():
            folder.mkdir()
        sha256 = writer.sha256(check)
        bundle = Bundle.of(name)
        if bundle is None:
            file = stored_file_name(name)
            os.link(writer.data, folder / file)  # a link, not a move: after a crash the data is still there
        else:
            file = self._unpack(writer, bundle, folder, check)
        return _SlideFolder(folder, file, writer.bytes, sha256)

    def _unpack(self, writer: Writer, bundle: Bundle, folder: Path, check: Callable[[], None]) -> str:
        reserved = reserved_bytes(self._inbox.unfinished(), writer.upload.owner)
        return unpack(
            *(writer.data, bundle, folder),
            name=writer.upload.name,
            most_bytes=UNPACKED_TO_UPLOADED * self._settings.max_upload_bytes,
            free_bytes=max(0, self._storage.available_bytes() - reserved),
            between=check,
        )


def _keep_for_retry(writer: Writer, cause: Problem) -> Problem:
    """Keep an upload whose slide could not be checked, and add to the problem how to retry."""
    if writer.upload.method.is_single_request:
        writer.make_resumable()
    retry = f"PATCH /v1/uploads/{writer.upload.id} with Upload-Offset: {writer.bytes} and no bytes"
    return replace(cause, detail=f"{cause.detail}; the upload is kept; to check it again, send {retry}")
