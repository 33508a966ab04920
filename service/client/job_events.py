"""A job followed to its end: server-sent events, long polling where something on the way holds events back.

Both survive a restart of the service and of the line; a client that comes back hears what it has missed, as one change.
"""

import json
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from urllib.parse import quote

from slidelift.service.client.connection import Answer, Connection, json_of
from slidelift.service.client.errors import ClientError, ServiceRefusedError, SilentError, UnexpectedAnswerError
from slidelift.service.client.values import Job, built

OnChange = Callable[[Job], None]
_SILENCE_SECONDS = 25.0
"""The service says something every 15 s."""
_POLL_SECONDS = 30
_LEAST_SECONDS = 1.0


def follow(connection: Connection, job_id: str, on_change: OnChange | None) -> Job:
    """Wait for the end of a job; see `Client.follow`."""
    path = connection.path(f"/v1/jobs/{quote(job_id, safe='')}")
    job = built(Job, connection.json("GET", path))
    patience = connection.patience()
    changes = _events
    if on_change:
        on_change(job)
    while not job.is_ended:
        started = time.monotonic()
        try:
            for found in changes(connection, path, job):
                patience.progressed()
                if found is not None and found.revision != job.revision:
                    job = found
                    if on_change:
                        on_change(job)
            time.sleep(max(0.0, started + _LEAST_SECONDS - time.monotonic()))
        except _NoEventsError:
            changes = _polls
        except ClientError as error:
            patience.wait(error)
    return job


class _NoEventsError(Exception):
    """Something on the way holds events back, or what answers knows none."""


def _events(connection: Connection, path: str, job: Job) -> Iterator[Job | None]:
    """The job at each change, None for a sign of life; ends with the job, or when the service stops."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(job.revision)}
    is_silent = True
    try:
        with connection.stream("GET", f"{path}/events", headers=headers, silence_seconds=_SILENCE_SECONDS) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise _NoEventsError
            for data in _data_of_events(answer):
                is_silent = False
                yield built(Job, data) if data is not None else None
    except SilentError as error:
        if is_silent:
            raise _NoEventsError from error
        raise
    except ServiceRefusedError as error:
        if error.problem.status in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_ACCEPTABLE):
            raise _NoEventsError from error
        raise


def _polls(connection: Connection, path: str, job: Job) -> Iterator[Job | None]:
    """The same by one long poll."""
    headers = {"Prefer": f"wait={_POLL_SECONDS}", "If-None-Match": f'"{job.id}.{job.revision}"'}
    answer = connection.once("GET", path, headers=headers)
    yield None if answer.status_code == HTTPStatus.NOT_MODIFIED else built(Job, json_of(answer))


def _data_of_events(answer: Answer) -> Iterator[object]:
    """JSON of each event, None for a comment. Lines end in LF or CRLF alone: JSON may hold other separators."""
    rest, data = b"", b""
    for piece in answer.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(b"data:"):
                data += line[5:].removeprefix(b" ")
            elif line.startswith(b":"):
                yield None
            elif not line and data:
                yield _parsed(data)
                data = b""


def _parsed(data: bytes) -> object:
    try:
        found: object = json.loads(data)
    except ValueError as error:
        raise UnexpectedAnswerError("an event of the job is no JSON; is this a slidelift service?") from error
    return found
