"""Errors of the client.

ClientError                carries a Problem, as every ServiceError does
├── ServiceRefusedError    the service refused the request; branch on `problem.code`
├── UnreachableError       no complete response, in spite of retries
│   └── SilentError        connected, but no data for too long
├── UnexpectedAnswerError  the response is not that of a slidelift service
├── IntegrityError         the received data differ from the sent data
└── UnusableError          an address, a token or a local file can't be used
"""

from slidelift.service.errors import Problem, ServiceError


class ClientError(ServiceError):
    """Base class of the client's errors."""

    code = "client.failed"
    by_user = False

    def __init__(self, detail: str) -> None:
        super().__init__(Problem(self.code, detail, by_user=self.by_user))


class ServiceRefusedError(ClientError):
    """The service refused the request.

    Attributes
    ----------
    problem
        The problem from the response (RFC 9457).
    retry_after
        Seconds to wait before the next attempt, if the service states them.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        ServiceError.__init__(self, problem)
        self.retry_after = retry_after


class UnreachableError(ClientError):
    """No complete response, in spite of retries; the same call may succeed later."""

    code = "client.unreachable"


class SilentError(UnreachableError):
    """Connected, but no data for too long."""


class UnexpectedAnswerError(ClientError):
    """The response is not that of a slidelift service: another program or a proxy has answered."""

    code = "client.unexpected-answer"


class IntegrityError(ClientError):
    """The received data differ from the sent data."""

    code = "client.integrity"


class UnusableError(ClientError):
    """An address, a token or a local file can't be used; the user must change it."""

    code = "client.unusable"
    by_user = True
