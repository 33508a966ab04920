"""What can go wrong, in the words of every surface: exit codes, HTTP statuses, stable codes.

    Problem                 the one value that crosses processes and the wire
    ServiceError            carries a Problem; raised by the service's own rooms
    └── Cancelled           somebody asked to stop

`service.codes` lists the codes; `service.pipeline.failures` turns any exception into a Problem.
"""

from dataclasses import asdict, dataclass
from typing import Any

EXIT_DONE, EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Problem:
    """One failure, said so that its reader can act.

    Attributes
    ----------
    code
        Stable and machine-readable, such as ``slide.unreadable``.
    detail
        What happened, to which file or tile, and what to try.
    status
        The HTTP status that the REST surface answers with (or would have).
    by_user
        True where the request or its slide must be changed by the user (exit code 2).
    """

    code: str
    detail: str
    status: int = 500
    by_user: bool = False

    @property
    def exit_code(self) -> int:
        """The command line's exit code for this problem."""
        return EXIT_USER if self.by_user else EXIT_FAILED

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class ServiceError(Exception):
    """A failure of the service that already knows its Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Cancelled(ServiceError):  # noqa: N818 - a request fulfilled, not an error
    """The work was stopped because somebody asked."""

    def __init__(self) -> None:
        super().__init__(Problem("job.cancelled", "cancelled on request", 409))
