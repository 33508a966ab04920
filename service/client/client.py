"""The client: slides up, jobs asked for and followed, results down, over lines that break and services that restart."""

import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import quote, urlencode

from slidelift.service.client import downloading, journal
from slidelift.service.client import job_events as following
from slidelift.service.client.connection import Connection, member
from slidelift.service.client.errors import ServiceRefusedError, UnexpectedAnswerError
from slidelift.service.client.job_events import OnChange
from slidelift.service.client.upload_source import parcel_of
from slidelift.service.client.uploading import OnBytes, Upload
from slidelift.service.client.values import Job, JobOptions, Model, Recommendation, RecommendationOptions, Slide, built

DEFAULT_ADDRESS = "http://127.0.0.1:8000"


class Client:
    """A slidelift service, as Python sees it. Close it, or use it in a `with`; one thread at a time.

    Every call is tried again when the line breaks or the service says that it can't just now, with growing pauses,
    until nothing has moved for `patience_seconds`; an address that has never answered is given up after 5 s. Any call
    may raise ServiceRefusedError (the service said no), UnreachableError and UnexpectedAnswerError.

    Parameters
    ----------
    address
        Such as ``https://slides.example.org/slidelift``.
    token
        Access token, where the service asks for one (`slidelift token create`). It is in no message and no repr.
    patience_seconds
        Long enough for the restart of a machine.
    on_wait
        Hears why a call waits; by default that is logged.
    state_folder
        Where unfinished uploads are remembered, so that another process can continue them; by default below
        ``XDG_STATE_HOME``.

    Raises
    ------
    UnusableError
        The address or the token can't be one.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        token: str | None = None,
        *,
        patience_seconds: float = 300,
        on_wait: Callable[[str], None] | None = None,
        state_folder: Path | None = None,
    ) -> None:
        self._connection = Connection(address, token, patience_seconds, on_wait)
        self._state_folder = state_folder or journal.folder_of()

    def __repr__(self) -> str:
        return f"Client({self._connection.address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._connection.close()

    def upload(self, path: str | Path, name: str | None = None, on_progress: OnBytes | None = None) -> Slide:
        """Bring a slide to the service.

        A MRXS, VMS or VMU travels with the files that belong to it, a folder with all its DICOM files, as one tar that
        is made on the way. An upload that broke off is continued by the next call for the same, unchanged file, in
        another process too.

        Parameters
        ----------
        name
            Under which the service keeps it; by default the file's own.
        on_progress
            Hears how many bytes have arrived, and of how many.

        Raises
        ------
        UnusableError
            There is no such file, or it is empty.
        IntegrityError
            What the service has is not what lies here.
        """
        parcel = parcel_of(Path(path), name)
        noted = journal.Journal(self._state_folder, self._connection.address, parcel)
        return Upload(self._connection, parcel, noted, on_progress).run()

    def slide(self, slide_id: str) -> Slide:
        """What the service knows of a slide."""
        return built(Slide, self._connection.json("GET", self._path("slides", slide_id)))

    def slides(self) -> Iterator[Slide]:
        """All slides, the newest first."""
        return (built(Slide, one) for one in self._pages("slides", {}))

    def delete_slide(self, slide_id: str) -> None:
        """Delete a slide; results made of it stay. Refused while an unfinished job needs it (``slide.in-use``)."""
        self._connection.request("DELETE", self._path("slides", slide_id))

    def models(self) -> list[Model]:
        """The models on offer."""
        found = self._connection.json("GET", self._connection.path("/v1/models"))
        return [built(Model, one) for one in member(found, "models")]

    def recommendation(self, slide_id: str, **wanted: Unpack[RecommendationOptions]) -> Recommendation:
        """Which model suits a slide, and why; a job with the model "auto" takes the same answer.

        Parameters
        ----------
        wanted
            See `RecommendationOptions`.
        """
        query = {name: value for name, value in wanted.items() if value is not None}
        address = f"{self._path('slides', slide_id)}/recommendation"
        return built(Recommendation, self._connection.json("GET", f"{address}?{urlencode(query)}"))

    def submit(self, slide_id: str, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]) -> Job:
        """Ask for an upscale.

        Parameters
        ----------
        idempotency_key
            A word of your own: what is asked again under it within a day is the same job. By default one is made, so
            that a line that breaks in mid-call does not make two jobs.
        options
            What to make of the slide; see `JobOptions`.
        """
        found = self._connection.json(
            "POST",
            self._connection.path("/v1/jobs"),
            json={"slide": slide_id, **options},
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        )
        return built(Job, found)

    def job(self, job_id: str) -> Job:
        """Where a job stands."""
        return built(Job, self._connection.json("GET", self._path("jobs", job_id)))

    def jobs(self, *, state: str | None = None, slide: str | None = None, batch: str | None = None) -> Iterator[Job]:
        """Jobs, the newest first; of a state, a slide or a batch, if one is given."""
        given = {"state": state, "slide": slide, "batch": batch}
        wanted = {name: value for name, value in given.items() if value is not None}
        return (built(Job, one) for one in self._pages("jobs", wanted))

    def follow(self, job_id: str, on_change: OnChange | None = None) -> Job:
        """Wait until a job has ended, whatever its end; look at the `state` of what is returned.

        A paused job has not ended: it is waited for. What `on_change` raises ends the waiting, and the job goes on.

        Parameters
        ----------
        on_change
            Hears of the job at once and at each change.
        """
        return following.follow(self._connection, job_id, on_change)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; a worker that is at it stops within seconds. No error where it is cancelled already."""
        return self._moved("DELETE", self._path("jobs", job_id), job_id, {"cancelled"})

    def pause(self, job_id: str) -> Job:
        """Set a job aside with its finished stripes. No error where it is paused already."""
        return self._moved("POST", self._path("jobs", job_id) + "/pause", job_id, {"paused"})

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on. No error where it does so already."""
        return self._moved("POST", self._path("jobs", job_id) + "/resume", job_id, {"queued", "running"})

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again. No error where it is under way already."""
        return self._moved("POST", self._path("jobs", job_id) + "/retry", job_id, {"queued", "running"})

    def download(
        self, job_id: str, path: str | Path, on_progress: OnBytes | None = None, *, overwrite: bool = False
    ) -> Path:
        """Fetch what a job made, to `path` with ``.part`` behind it, and rename it when it is whole.

        What broke off is continued by the next call, in another process too. The SHA-256 of the whole is compared with
        what the service says.

        Raises
        ------
        UnusableError
            There is a file of that name, and `overwrite` is False; or its folder is missing.
        IntegrityError
            The hash is another; what had arrived is deleted.
        OSError
            It can't be written.
        """
        downloading.check_free(Path(path), overwrite=overwrite)
        job = self.job(job_id)
        if job.result is None:  # let the service say why
            self._connection.request("GET", self._path("jobs", job_id) + "/result", headers={"Range": "bytes=0-0"})
            job = self.job(job_id)
        if job.result is None:
            raise UnexpectedAnswerError(f"the service sends a result of job {job_id}, and does not say its hash")
        return downloading.download(self._connection, job.result, Path(path), on_progress, overwrite=overwrite)

    def report(self, job_id: str) -> dict[str, Any]:
        """How a result was made: source, model and plan by hash, tiles, warnings, seconds."""
        found: dict[str, Any] = self._connection.json("GET", self._path("jobs", job_id) + "/report")
        return found

    def report_page(self, job_id: str) -> str:
        """The same as one page of HTML, with pictures; it goes when the result is deleted."""
        return self._connection.request("GET", self._path("jobs", job_id) + "/report.html").text

    def tissue(self, job_id: str) -> dict[str, Any]:
        """Outlines of the tissue in the result's pixels, as GeoJSON for QuPath; they go when the result is deleted."""
        found: dict[str, Any] = self._connection.json("GET", self._path("jobs", job_id) + "/tissue.geojson")
        return found

    def wait_until_ready(self) -> None:
        """Wait for a service that is just starting, within the client's patience."""
        self._connection.is_answered = True
        self._connection.request("GET", self._connection.path("/health/ready"))

    def _path(self, room: str, thing: str) -> str:
        return self._connection.path(f"/v1/{room}/{quote(thing, safe='')}")

    def _pages(self, room: str, wanted: dict[str, str]) -> Iterator[Any]:
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in wanted.items())
        path: str | None = self._connection.path(f"/v1/{room}{'?' + query if query else ''}")
        while path:
            page = self._connection.json("GET", path)
            yield from member(page, room)
            path = member(page, "next")

    def _moved(self, method: str, path: str, job_id: str, wanted: set[str]) -> Job:
        """Ask for a move; one that is made already, perhaps by a request whose answer was lost, is no error."""
        try:
            return built(Job, self._connection.json(method, path))
        except ServiceRefusedError as error:
            if error.problem.status != HTTPStatus.CONFLICT or (job := self.job(job_id)).state not in wanted:
                raise
            return job
