"""One service's address, spoken to patiently: tokens, refusals, and how long a broken line is tried again."""

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
from slidelift.service.client.values import problem_of
from slidelift.service.errors import Problem

Answer = httpx.Response
FOREIGN = "client.refused"
"""Code of a refusal that is not in the service's words, but a proxy's or another program's."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TIMEOUT = httpx.Timeout(60, connect=10)
_FIRST_CONTACT_SECONDS = 5.0
"""An address where nothing ever answered is more likely wrong than down."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS, _LONGEST_RETRY_AFTER_SECONDS = 0.25, 15.0, 120.0
_PASSING = {408, 423, 429, 460, 500, 502, 503, 504}
"""Statuses that another try may turn into success; not 507, since room on a disk is made by people."""
_LASTING = {"quota.bytes"}
"""Codes with such a status that no waiting helps."""

log = logging.getLogger(__name__)


class Connection:
    """HTTP to one service; not to be shared between threads. Whoever makes it closes it.

    Parameters
    ----------
    address
        Such as ``https://slides.example.org/slidelift``; a path is the prefix under which a proxy shows the service.
    patience_seconds
        How long a call is tried again without any progress.
    on_wait
        Hears why and how long a call waits before it is tried again.

    Raises
    ------
    UnusableError
        The address is none, or the token can't be one.
    """

    def __init__(
        self, address: str, token: str | None, patience_seconds: float, on_wait: Callable[[str], None] | None
    ) -> None:
        try:
            parts = urlsplit(address)
            httpx.URL(address)
            usable = parts.port != 0 and bool((parts.hostname or "").encode("idna"))
        except (ValueError, httpx.InvalidURL):
            parts, usable = urlsplit(""), False
        if not usable or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UnusableError(f"{address}: the service's address is such as http://127.0.0.1:8000")
        if parts.username is not None:
            raise UnusableError("the service's address holds a user or a password; it takes an access token instead")
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token and token):
            raise UnusableError(
                "the access token is empty or holds characters that no token has; is it the right file?"
            )
        self.address = address.rstrip("/")
        self.is_answered = False
        self.patience_seconds = patience_seconds
        self.on_wait = on_wait or log.info
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path.rstrip("/")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_TIMEOUT,
            mounts=dict.fromkeys(["all://" + host for host in ("127.0.0.1", "[::1]", "localhost")]),  # past any proxy
        )

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def path(self, route: str) -> str:
        """The path of a route of the service, behind the prefix of a proxy."""
        return self._prefix + route

    def patience(self) -> "Patience":
        """What decides whether a call that failed is tried again."""
        return Patience(self)

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, silence_seconds: float | None = None, **options: Any
    ) -> Iterator[Answer]:
        """One try of a request whose answer is read as it comes; raises as `once` does, also while it is read."""
        timeout = _TIMEOUT if silence_seconds is None else httpx.Timeout(60, connect=10, read=silence_seconds)
        try:
            with self._http.stream(method, self._url(path), timeout=timeout, **options) as answer:
                self.is_answered = True
                if answer.status_code >= HTTPStatus.MULTIPLE_CHOICES and answer.status_code != HTTPStatus.NOT_MODIFIED:
                    answer.read()
                    raise self._refusal(answer)
                yield answer
        except httpx.ReadTimeout as error:
            raise SilentError(f"{self.address} has said nothing for {timeout.read:g} s") from error
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"{self.address} does not answer, or broke off: {reason}") from error

    def once(self, method: str, path: str, **options: Any) -> Answer:
        """One try of a request.

        Raises
        ------
        ServiceRefusedError
            The service answered with a problem.
        UnreachableError
            No whole answer came.
        """
        with self.stream(method, path, **options) as answer:
            answer.read()
            return answer

    def request(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request that may be sent twice, until it is answered or patience is over."""
        patience = self.patience()
        while True:
            try:
                return self.once(method, path, **options)
            except ClientError as error:
                patience.wait(error)

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that such a request answers with."""
        return json_of(self.request(method, path, **options))

    def _url(self, path: str) -> str:
        """Of what the service calls an address only the path counts: the token goes to no other host."""
        parts = urlsplit(path)
        return f"{self._origin}{parts.path}{'?' + parts.query if parts.query else ''}"

    def _refusal(self, answer: Answer) -> ServiceRefusedError:
        try:
            found = problem_of(answer.json())
        except (ValueError, KeyError, TypeError):
            status = answer.status_code
            phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
            hint = f"; it points to {answer.headers['location']}" if "location" in answer.headers else ""
            detail = f"{self.address} answers {status} {phrase}, not as slidelift does{hint}; is the address right?"
            found = Problem(FOREIGN, detail, status, by_user=status < 500)
        return ServiceRefusedError(found, _seconds(answer.headers.get("retry-after")))


class Patience:
    """Waits between the tries of one call, longer each time; gives up after a while without progress."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.progressed()

    def progressed(self) -> None:
        """Begin anew: the last try achieved something."""
        self._since, self._tries = time.monotonic(), 0

    def wait(self, error: ClientError) -> None:
        """Sleep until the next try, or raise the error: no try would help, or patience is over."""
        if not is_passing(error):
            raise error
        asked = (error.retry_after or 0.0) if isinstance(error, ServiceRefusedError) else 0.0
        backoff = min(_FIRST_WAIT_SECONDS * 2**self._tries, _LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1)
        pause = max(backoff, min(asked, _LONGEST_RETRY_AFTER_SECONDS))
        limit = self._connection.patience_seconds
        if not self._connection.is_answered:
            limit = min(limit, _FIRST_CONTACT_SECONDS)
        if time.monotonic() + pause > self._since + limit:
            raise error
        self._connection.on_wait(f"{error}; trying again in {pause:.0f} s" if pause >= 1 else f"{error}; trying again")
        self._tries += 1
        time.sleep(pause)


def is_passing(error: ClientError) -> bool:
    """True where another try may succeed."""
    if isinstance(error, ServiceRefusedError):
        return error.problem.status in _PASSING and error.problem.code not in _LASTING
    return isinstance(error, UnreachableError)


def json_of(answer: Answer) -> Any:
    """The JSON of an answer; raises UnexpectedAnswerError where it is none."""
    try:
        return answer.json()
    except ValueError as error:
        raise UnexpectedAnswerError(
            f"{answer.url.host} answered with something else than JSON; is this the address of a slidelift service?"
        ) from error


def member(found: Any, name: str) -> Any:
    """A member of a JSON object; raises UnexpectedAnswerError where there is none."""
    if not isinstance(found, Mapping) or name not in found:
        raise UnexpectedAnswerError(f"the answer has no {name}; is this the address of a slidelift service?")
    return found[name]


def _seconds(text: str | None) -> float | None:
    """Of Retry-After; its other form, a date, is not what this service sends."""
    return float(text) if text and text.isascii() and text.isdigit() else None
