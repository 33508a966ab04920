"""The service stops in the middle of an upload's work: nothing is wrong with the upload, and the next start goes on."""

from slidelift.service.errors import ServiceError, problem


class Closing(ServiceError):  # noqa: N818 - a request fulfilled, not an error
    """The work was put down because the service stops."""

    def __init__(self) -> None:
        super().__init__(problem("service.not-ready", "the service is stopping; ask for the upload again in a moment"))
