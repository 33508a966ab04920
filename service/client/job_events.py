"""Follows a job until it ends, by server-sent events, or by long polling if a proxy buffers events.

Both continue after a restart of the service or a broken connection. Missed changes are reported as one change.
"""

import json
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from urllib.parse import quote

from slidelift.service.client.connection import Answer, Connection, parse_json
from slidelift.service.client.errors import ClientError, ServiceRefusedError, SilentError, UnexpectedAnswerError
from slidelift.service.client.values import Job, from_json

OnChange = Callable[[Job], None]
_SILENCE_SECONDS = 25.0
"""The service sends at least a comment every 15 s."""
_POLL_SECONDS = 30
_REQUEST_SECONDS = 1.0
"""Minimum time from the start of one request to the next."""


def follow(connection: Connection, job_id: str, on_change: OnChange | None) -> Job:
    """Wait until a job has ended; see `Client.follow`."""
    path = connection.path(f"/v1/jobs/{quote(job_id, safe='')}")
    job = from_json(Job, connection.json("GET", path))
    retry = connection.retry()
    changes = _events
    if on_change:
        on_change(job)
    while not job.is_ended:
        started = time.monotonic()
        try:
            for changed in changes(connection, path, job):
                retry.reset()
                if changed is not None and changed.revision != job.revision:
                    job = changed
                    if on_change:
                        on_change(job)
            time.sleep(max(0.0, started + _REQUEST_SECONDS - time.monotonic()))
        except _NoEventsError:
            changes = _long_poll
        except ClientError as error:
            retry.wait(error)
    return job


class _NoEventsError(Exception):
    """Events do not arrive: a proxy buffers them, or the server does not support them."""


def _events(connection: Connection, path: str, job: Job) -> Iterator[Job | None]:
    """Yield the job after each change and None for each keep-alive, until the job ends or the service stops."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(job.revision)}
    is_silent = True
    try:
        with connection.stream("GET", f"{path}/events", headers=headers, silence_seconds=_SILENCE_SECONDS) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise _NoEventsError
            for data in _data_of_events(answer):
                is_silent = False
                yield from_json(Job, data) if data is not None else None
    except SilentError as error:
        if is_silent:
            raise _NoEventsError from error
        raise
    except ServiceRefusedError as error:
        if error.problem.status in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_ACCEPTABLE):
            raise _NoEventsError from error
        raise


def _long_poll(connection: Connection, path: str, job: Job) -> Iterator[Job | None]:
    """Yield the job if it changes within one long poll, else None."""
    headers = {"Prefer": f"wait={_POLL_SECONDS}", "If-None-Match": f'"{job.id}.{job.revision}"'}
    answer = connection.send_once("GET", path, headers=headers)
    yield None if answer.status_code == HTTPStatus.NOT_MODIFIED else from_json(Job, parse_json(answer))


def _data_of_events(answer: Answer) -> Iterator[object]:
    """Yield the JSON of each event, None for a comment. Lines end with LF or CRLF: JSON may hold other separators."""
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
        value: object = json.loads(data)
    except ValueError as error:
        raise UnexpectedAnswerError("an event of the job is not JSON; is this a slidelift service?") from error
    return value
