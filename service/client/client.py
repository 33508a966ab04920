"""Client of the REST service: upload slides, create and follow jobs, download results."""

import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import quote, urlencode

from slidelift.service.client import downloads, job_events
from slidelift.service.client.connection import Connection, member
from slidelift.service.client.errors import ServiceRefusedError, UnexpectedAnswerError
from slidelift.service.client.job_events import OnChange
from slidelift.service.client.upload_record import UploadRecord, default_folder
from slidelift.service.client.upload_source import open_source
from slidelift.service.client.uploads import OnBytes, Upload
from slidelift.service.client.values import (
    Job,
    JobOptions,
    Model,
    Recommendation,
    RecommendationOptions,
    Slide,
    from_json,
)

DEFAULT_ADDRESS = "http://127.0.0.1:8000"


class Client:
    """Client of a slidelift service. Close it or use it as a context manager; use it in one thread at a time.

    A call that fails because of the network, or because the service is temporarily unable to answer, is retried with
    growing pauses until it has made no progress for `retry_seconds`. An address that has never answered is given up
    after 5 s. Any call may raise ServiceRefusedError, UnreachableError or UnexpectedAnswerError.

    Parameters
    ----------
    address
        URL of the service, such as ``https://slides.example.org/slidelift``.
    token
        Access token, if the service requires one (`slidelift token create`). It appears in no message and no repr.
    retry_seconds
        How long a call is retried without progress; the default covers the restart of a machine.
    on_wait
        Called with the reason before each retry; by default the reason is logged.
    state_folder
        Folder that records unfinished uploads, so that another process can continue them; by default below
        ``XDG_STATE_HOME``.

    Raises
    ------
    UnusableError
        The address or the token is not valid.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        token: str | None = None,
        *,
        retry_seconds: float = 300,
        on_wait: Callable[[str], None] | None = None,
        state_folder: Path | None = None,
    ) -> None:
        self._connection = Connection(address, token, retry_seconds, on_wait)
        self._state_folder = state_folder or default_folder()

    def __repr__(self) -> str:
        return f"Client({self._connection.address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def upload(self, path: str | Path, name: str | None = None, on_progress: OnBytes | None = None) -> Slide:
        """Upload a slide.

        A MRXS, VMS or VMU slide is sent with the files that belong to it, and a folder with all its DICOM files, as one
        tar that is generated while it is sent. The next call for the same, unchanged file continues an interrupted
        upload, also in another process.

        Parameters
        ----------
        name
            Name of the slide on the service; by default the file's name.
        on_progress
            Called with the number of bytes sent and the total.

        Raises
        ------
        UnusableError
            There is no such file, or it is empty.
        IntegrityError
            The service received other bytes than the file holds.
        """
        source = open_source(Path(path), name)
        record = UploadRecord(self._state_folder, self._connection.address, source)
        return Upload(self._connection, source, record, on_progress).run()

    def slide(self, slide_id: str) -> Slide:
        """Get a slide by its id."""
        return from_json(Slide, self._connection.json("GET", self._path("slides", slide_id)))

    def slides(self) -> Iterator[Slide]:
        """Iterate over all slides, newest first."""
        return (from_json(Slide, value) for value in self._pages("slides", {}))

    def delete_slide(self, slide_id: str) -> None:
        """Delete a slide, but not its results. Refused while an unfinished job needs it (``slide.in-use``)."""
        self._connection.request("DELETE", self._path("slides", slide_id))

    def models(self) -> list[Model]:
        """List the models of the service."""
        answer = self._connection.json("GET", self._connection.path("/v1/models"))
        return [from_json(Model, value) for value in member(answer, "models")]

    def recommendation(self, slide_id: str, **options: Unpack[RecommendationOptions]) -> Recommendation:
        """Get the model that is recommended for a slide, which a job with the model "auto" uses, and the reason.

        Parameters
        ----------
        options
            See `RecommendationOptions`.
        """
        query = {name: value for name, value in options.items() if value is not None}
        address = f"{self._path('slides', slide_id)}/recommendation"
        return from_json(Recommendation, self._connection.json("GET", f"{address}?{urlencode(query)}"))

    def submit(self, slide_id: str, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]) -> Job:
        """Create a job that upscales a slide.

        Parameters
        ----------
        idempotency_key
            A second call with the same key within a day returns the same job. By default a new key is generated for
            each call, so that a retry after a network failure does not create a second job.
        options
            See `JobOptions`.
        """
        answer = self._connection.json(
            "POST",
            self._connection.path("/v1/jobs"),
            json={"slide": slide_id, **options},
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        )
        return from_json(Job, answer)

    def job(self, job_id: str) -> Job:
        """Get a job by its id."""
        return from_json(Job, self._connection.json("GET", self._path("jobs", job_id)))

    def jobs(self, *, state: str | None = None, slide: str | None = None, batch: str | None = None) -> Iterator[Job]:
        """Iterate over jobs, newest first, optionally only those of a state, a slide or a batch."""
        filters = {"state": state, "slide": slide, "batch": batch}
        query = {name: value for name, value in filters.items() if value is not None}
        return (from_json(Job, value) for value in self._pages("jobs", query))

    def follow(self, job_id: str, on_change: OnChange | None = None) -> Job:
        """Wait until a job has succeeded, failed or been cancelled, and return it.

        A paused job has not ended. An exception from `on_change` ends the waiting; the job continues.

        Parameters
        ----------
        on_change
            Called with the job at once and after each change.
        """
        return job_events.follow(self._connection, job_id, on_change)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; its worker stops within seconds. No error if it is already cancelled."""
        return self._change_state("DELETE", self._path("jobs", job_id), job_id, {"cancelled"})

    def pause(self, job_id: str) -> Job:
        """Pause a job, keeping its finished stripes. No error if it is already paused."""
        return self._change_state("POST", self._path("jobs", job_id) + "/pause", job_id, {"paused"})

    def resume(self, job_id: str) -> Job:
        """Resume a paused job. No error if it is already queued or running."""
        return self._change_state("POST", self._path("jobs", job_id) + "/resume", job_id, {"queued", "running"})

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again. No error if it is already queued or running."""
        return self._change_state("POST", self._path("jobs", job_id) + "/retry", job_id, {"queued", "running"})

    def download(
        self, job_id: str, path: str | Path, on_progress: OnBytes | None = None, *, overwrite: bool = False
    ) -> Path:
        """Download the result of a job and verify its SHA-256.

        The data go to `path` with ``.part`` appended, which is renamed when it is complete. The next call continues an
        interrupted download, also in another process.

        Raises
        ------
        UnusableError
            The file exists and `overwrite` is False, or its folder is missing.
        IntegrityError
            The SHA-256 differs; the downloaded data are deleted.
        OSError
            The file can't be written.
        """
        downloads.check_free(Path(path), overwrite=overwrite)
        job = self.job(job_id)
        if job.result is None:  # the service answers with the reason
            self._connection.request("GET", self._path("jobs", job_id) + "/result", headers={"Range": "bytes=0-0"})
            job = self.job(job_id)
        if job.result is None:
            raise UnexpectedAnswerError(f"the service sends a result of job {job_id} without its hash")
        return downloads.download(self._connection, job.result, Path(path), on_progress, overwrite=overwrite)

    def report(self, job_id: str) -> dict[str, Any]:
        """Get the report of a job: hashes of source, model and plan, tiles, warnings and times."""
        report: dict[str, Any] = self._connection.json("GET", self._path("jobs", job_id) + "/report")
        return report

    def report_page(self, job_id: str) -> str:
        """Get the report as an HTML page with images; it is deleted with the result."""
        return self._connection.request("GET", self._path("jobs", job_id) + "/report.html").text

    def tissue(self, job_id: str) -> dict[str, Any]:
        """Get the tissue outlines in pixels of the result, as GeoJSON for QuPath; they are deleted with the result."""
        outlines: dict[str, Any] = self._connection.json("GET", self._path("jobs", job_id) + "/tissue.geojson")
        return outlines

    def wait_until_ready(self) -> None:
        """Wait until a service that is starting is ready, for `retry_seconds` at most."""
        self._connection.is_answered = True
        self._connection.request("GET", self._connection.path("/health/ready"))

    def _path(self, collection: str, item_id: str) -> str:
        return self._connection.path(f"/v1/{collection}/{quote(item_id, safe='')}")

    def _pages(self, collection: str, filters: dict[str, str]) -> Iterator[Any]:
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in filters.items())
        path: str | None = self._connection.path(f"/v1/{collection}{'?' + query if query else ''}")
        while path:
            page = self._connection.json("GET", path)
            yield from member(page, collection)
            path = member(page, "next")

    def _change_state(self, method: str, path: str, job_id: str, wanted: set[str]) -> Job:
        """Change a job's state; no error if it has changed already, perhaps by a request whose answer was lost."""
        try:
            return from_json(Job, self._connection.json(method, path))
        except ServiceRefusedError as error:
            if error.problem.status != HTTPStatus.CONFLICT or (job := self.job(job_id)).state not in wanted:
                raise
            return job
