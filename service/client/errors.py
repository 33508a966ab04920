"""What can go wrong between a client and the service.

ClientError                carries a Problem, as every ServiceError does
├── ServiceRefusedError    the service said no; branch on `problem.code`
├── UnreachableError       no answer, or one that broke off again and again
│   └── SilentError        connected, but nothing was said for too long
├── UnexpectedAnswerError  what answers is not this service
├── IntegrityError         what arrived is not what was sent
└── UnusableError          an address, a token or a file of this machine can't be used
"""

from slidelift.service.errors import Problem, ServiceError


class ClientError(ServiceError):
    """A failure of a call to the service."""

    code = "client.failed"
    by_user = False

    def __init__(self, detail: str) -> None:
        super().__init__(Problem(self.code, detail, by_user=self.by_user))


class ServiceRefusedError(ClientError):
    """The service said no.

    Attributes
    ----------
    problem
        What it said.
    retry_after
        Seconds that it asks to wait before the next try; None where it does not say.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        ServiceError.__init__(self, problem)
        self.retry_after = retry_after


class UnreachableError(ClientError):
    """No answer, or one that broke off again and again; the same call may succeed later."""

    code = "client.unreachable"


class SilentError(UnreachableError):
    """Connected, but nothing was said for too long."""


class UnexpectedAnswerError(ClientError):
    """What answers is not this service: another program has the address, or something stands between."""

    code = "client.unexpected-answer"


class IntegrityError(ClientError):
    """What arrived is not what was sent."""

    code = "client.integrity"


class UnusableError(ClientError):
    """An address, a token or a file of this machine can't be used; the user must change it."""

    code = "client.unusable"
    by_user = True
