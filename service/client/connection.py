"""HTTP connection to one service: token, errors and retries."""

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx

from slidelift.service.client.errors import (
    ClientError,
    ServiceRefusedError,
    SilentError,
    UnexpectedAnswerError,
    UnreachableError,
    UnusableError,
)
from slidelift.service.client.values import parse_problem
from slidelift.service.errors import Problem

Answer = httpx.Response
FOREIGN_ANSWER = "client.refused"
"""Code of an error response that comes from a proxy or another program."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TIMEOUT = httpx.Timeout(60, connect=10)
_FIRST_CONTACT_SECONDS = 5.0
"""An address that has never answered is more likely wrong than temporarily down."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS, _LONGEST_RETRY_AFTER_SECONDS = 0.25, 15.0, 120.0
_RETRY_STATUSES = {408, 423, 429, 460, 500, 502, 503, 504}
"""Statuses of temporary failures; not 507, since disk space must be freed first."""
_NO_RETRY_CODES = {"quota.bytes"}
"""Codes with one of these statuses for which waiting does not help."""

log = logging.getLogger(__name__)


class Connection:
    """HTTP connection to one service; for one thread. The caller closes it.

    Parameters
    ----------
    address
        URL such as ``https://slides.example.org/slidelift``; a path is the prefix under which a proxy serves it.
    retry_seconds
        How long a call is retried without progress.
    on_wait
        Called with the reason and the pause before each retry.

    Raises
    ------
    UnusableError
        The address or the token is not valid.
    """

    def __init__(
        self, address: str, token: str | None, retry_seconds: float, on_wait: Callable[[str], None] | None
    ) -> None:
        try:
            parts = urlsplit(address)
            httpx.URL(address)
            usable = parts.port != 0 and bool((parts.hostname or "").encode("idna"))
        except (ValueError, httpx.InvalidURL):
            parts, usable = urlsplit(""), False
        if not usable or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UnusableError(f"{address} is not the address of a service, such as http://127.0.0.1:8000")
        if parts.username is not None:
            raise UnusableError("the service's address holds a user or a password; pass an access token instead")
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token and token):
            raise UnusableError("the access token is empty or holds invalid characters; is it the right file?")
        self.address = address.rstrip("/")
        self.is_answered = False
        self.retry_seconds = retry_seconds
        self.on_wait = on_wait or log.info
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path.rstrip("/")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_TIMEOUT,
            mounts=dict.fromkeys(["all://" + host for host in ("127.0.0.1", "[::1]", "localhost")]),  # without a proxy
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def path(self, route: str) -> str:
        """The path of a route, with the prefix of a proxy."""
        return self._prefix + route

    def retry(self) -> "Retry":
        """Retries of one call."""
        return Retry(self)

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, silence_seconds: float | None = None, **options: Any
    ) -> Iterator[Answer]:
        """Send a request once and stream the response; raises as `send_once` does, also while it is read."""
        timeout = _TIMEOUT if silence_seconds is None else httpx.Timeout(60, connect=10, read=silence_seconds)
        try:
            with self._http.stream(method, self._url(path), timeout=timeout, **options) as answer:
                self.is_answered = True
                if answer.status_code >= HTTPStatus.MULTIPLE_CHOICES and answer.status_code != HTTPStatus.NOT_MODIFIED:
                    answer.read()
                    raise self._refusal(answer)
                yield answer
        except httpx.ReadTimeout as error:
            raise SilentError(f"{self.address} has sent nothing for {timeout.read:g} s") from error
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"{self.address} does not answer, or closed the connection: {reason}") from error

    def send_once(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request once.

        Raises
        ------
        ServiceRefusedError
            The service answered with a problem.
        UnreachableError
            No complete response arrived.
        """
        with self.stream(method, path, **options) as answer:
            answer.read()
            return answer

    def request(self, method: str, path: str, **options: Any) -> Answer:
        """Send an idempotent request, with retries."""
        retry = self.retry()
        while True:
            try:
                return self.send_once(method, path, **options)
            except ClientError as error:
                retry.wait(error)

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON response to such a request."""
        return parse_json(self.request(method, path, **options))

    def _url(self, path: str) -> str:
        """Keep only path and query of an address from the service, so that the token is sent to no other host."""
        parts = urlsplit(path)
        return f"{self._origin}{parts.path}{'?' + parts.query if parts.query else ''}"

    def _refusal(self, answer: Answer) -> ServiceRefusedError:
        try:
            problem = parse_problem(answer.json())
        except (ValueError, KeyError, TypeError):
            status = answer.status_code
            phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
            hint = f"; it points to {answer.headers['location']}" if "location" in answer.headers else ""
            detail = (
                f"{self.address} answers {status} {phrase}, unlike a slidelift service{hint}; is the address right?"
            )
            problem = Problem(FOREIGN_ANSWER, detail, status, by_user=status < 500)
        return ServiceRefusedError(problem, _seconds(answer.headers.get("retry-after")))


class Retry:
    """Pauses between the attempts of one call, longer each time; gives up after a time without progress."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.reset()

    def reset(self) -> None:
        """Start again with short pauses, after progress."""
        self._since, self._attempts = time.monotonic(), 0

    def wait(self, error: ClientError) -> None:
        """Sleep until the next attempt, or raise the error if it is permanent or the time is over."""
        if not is_temporary(error):
            raise error
        asked = (error.retry_after or 0.0) if isinstance(error, ServiceRefusedError) else 0.0
        backoff = min(_FIRST_WAIT_SECONDS * 2**self._attempts, _LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1)
        pause = max(backoff, min(asked, _LONGEST_RETRY_AFTER_SECONDS))
        limit = self._connection.retry_seconds
        if not self._connection.is_answered:
            limit = min(limit, _FIRST_CONTACT_SECONDS)
        if time.monotonic() + pause > self._since + limit:
            raise error
        self._connection.on_wait(f"{error}; trying again in {pause:.0f} s" if pause >= 1 else f"{error}; trying again")
        self._attempts += 1
        time.sleep(pause)


def is_temporary(error: ClientError) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, ServiceRefusedError):
        return error.problem.status in _RETRY_STATUSES and error.problem.code not in _NO_RETRY_CODES
    return isinstance(error, UnreachableError)


def parse_json(answer: Answer) -> Any:
    """Parse a JSON response; raises UnexpectedAnswerError."""
    try:
        return answer.json()
    except ValueError as error:
        raise UnexpectedAnswerError(
            f"{answer.url.host} did not answer with JSON; is this the address of a slidelift service?"
        ) from error


def member(value: Any, name: str) -> Any:
    """Get a member of a JSON object; raises UnexpectedAnswerError if it is missing."""
    if not isinstance(value, Mapping) or name not in value:
        raise UnexpectedAnswerError(f"the answer has no {name}; is this the address of a slidelift service?")
    return value[name]


def _seconds(text: str | None) -> float | None:
    """Parse Retry-After; the service does not send its other form, a date."""
    return float(text) if text and text.isascii() and text.isdigit() else None
