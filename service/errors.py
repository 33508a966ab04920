"""Errors of the service: the Problem that crosses processes and HTTP, its stable codes, and the exceptions.

    Problem                 one failure: code, detail, HTTP status, exit code
    ServiceError            the exception that carries a Problem
    └── Cancelled           the work was cancelled

Codes are stable: clients may branch on them. `CODES` gives each code its HTTP status and title. A Problem that comes
from the slide or the model brings its own status; `service.pipeline.failures` makes a Problem of any exception.
"""

from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from slidelift.errors import SlideliftError

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


class ServiceError(SlideliftError):
    """A failure of the service that already knows its Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Cancelled(ServiceError):  # noqa: N818 - a request fulfilled, not an error
    """The work was stopped because somebody asked."""

    def __init__(self) -> None:
        super().__init__(Problem("job.cancelled", "cancelled on request", 409))


@dataclass(frozen=True, slots=True)
class Code:
    """What every problem of one code has in common."""

    status: int
    title: str


CODES = {
    "request.invalid": Code(422, "The request does not have the expected form"),
    "request.region": Code(422, "The region does not lie within the slide"),
    "request.roi": Code(422, "The region of interest can't be used"),
    "request.level": Code(422, "The slide has no such level"),
    "request.range": Code(416, "The file does not have the range asked for"),
    "request.plan": Code(422, "What is asked can't be cut from this slide"),
    "request.little-to-gain": Code(422, "No model would make this slide better"),
    "request.format": Code(422, "The output's name says no known format"),
    "request.output": Code(422, "The output can't be written there"),
    "request.in-progress": Code(409, "Another process is making this output"),
    "route.unknown": Code(404, "There is nothing at this address"),
    "method.not-allowed": Code(405, "This address does not know that method"),
    "request.precondition": Code(412, "The thing is not what the request expects"),
    "request.idempotency-key": Code(422, "The idempotency key came before with another request"),
    "request.too-large": Code(413, "The request is too large"),
    "request.timeout": Code(408, "The request did not arrive in time"),
    "access.token-missing": Code(401, "An access token is needed"),
    "access.token-invalid": Code(401, "The access token is not valid"),
    "access.scope": Code(403, "The access token does not allow that"),
    "access.cross-site": Code(403, "A page of another site may not do that"),
    "access.unsafe": Code(422, "The service would be open to a network"),
    "quota.jobs": Code(429, "Too many unfinished jobs"),
    "quota.bytes": Code(429, "Too many bytes of slides"),
    "quota.uploads": Code(429, "Too many unfinished uploads"),
    "queue.full": Code(429, "The queue is full"),
    "token.unknown": Code(404, "There is no such token"),
    "database.url": Code(422, "The database can't be opened"),
    "data.identity": Code(422, "The data folder and the database do not belong together"),
    "store.unavailable": Code(503, "The database does not answer"),
    "slide.unknown": Code(404, "There is no such slide"),
    "slide.unreadable": Code(422, "The file can't be read as a slide"),
    "slide.not-checked": Code(503, "The slide could not be looked into right now"),
    "slide.foreign-file": Code(422, "The slide leads to a file that is not its own"),
    "slide.multi-file": Code(422, "This format spreads a slide over several files"),
    "slide.mpp-missing": Code(422, "The slide does not say its pixel size"),
    "slide.mpp-implausible": Code(422, "The slide says a pixel size that no scanner has"),
    "slide.unsupported-pixels": Code(422, "The slide's pixels are not 8-bit colour"),
    "slide.not-brightfield": Code(422, "The slide is not a brightfield scan"),
    "slide.tile-unreadable": Code(422, "A tile of the slide can't be decoded"),
    "slide.in-use": Code(409, "An unfinished job needs the slide"),
    "slide.crashes-decoder": Code(422, "The slide crashes its decoder"),
    "model.unknown": Code(422, "There is no such model"),
    "model.weights": Code(422, "The file of weights can't be used"),
    "model.scale": Code(422, "The model does not enlarge by that factor"),
    "model.non-finite": Code(422, "The model answers no number for a tile"),
    "cluster.address": Code(422, "The scheduler's address can't be used"),
    "cluster.not-installed": Code(422, "What a cluster needs is not installed"),
    "cluster.unreachable": Code(503, "The cluster does not answer"),
    "cluster.workers": Code(500, "The cluster's workers can't do the work"),
    "device.missing": Code(422, "There is no such device"),
    "device.out-of-memory": Code(500, "Not even one tile fits into memory"),
    "training.recipe": Code(422, "The recipe can't be followed"),
    "images.unusable": Code(422, "The images can't be used"),
    "training.failed": Code(500, "Training can't go on"),
    "upload.name": Code(422, "The name can't be a file name"),
    "upload.empty": Code(422, "The upload has no content"),
    "upload.too-large": Code(413, "The upload is larger than this service takes"),
    "upload.multipart": Code(415, "Uploads by PUT are the bare file"),
    "upload.content-range": Code(400, "Uploads by PUT can't be continued"),
    "upload.incomplete": Code(400, "The upload did not arrive whole"),
    "upload.digest-invalid": Code(400, "The digest can't be understood"),
    "upload.digest-mismatch": Code(400, "What arrived is not what was sent"),
    "upload.form": Code(400, "The form can't be understood"),
    "upload.header": Code(400, "A header of the upload can't be understood"),
    "upload.media-type": Code(415, "This address takes bodies of another type"),
    "upload.tus-version": Code(412, "This service speaks another version of tus"),
    "upload.unknown": Code(404, "There is no such upload"),
    "upload.expired": Code(410, "The upload was left alone for too long"),
    "upload.offset": Code(409, "The piece does not begin where the upload ends"),
    "upload.locked": Code(423, "The upload is being written by another request"),
    "upload.checksum": Code(460, "The piece is not what was sent"),
    "upload.bundle": Code(422, "The archive does not hold one slide"),
    "upload.uri-not-allowed": Code(403, "The service may not fetch from there"),
    "upload.source": Code(422, "The slide could not be fetched"),
    "upload.interrupted": Code(503, "The service was stopped while it fetched the slide"),
    "storage.full": Code(507, "The disk is full"),
    "storage.unusable": Code(500, "A file can't be read or written"),
    "result.verification": Code(500, "The written file does not read back as it should"),
    "job.unknown": Code(404, "There is no such job"),
    "job.cancelled": Code(409, "The job was cancelled"),
    "job.state": Code(409, "The job's state does not allow that"),
    "batch.unknown": Code(404, "There is no such batch"),
    "job.not-finished": Code(409, "The job has not finished"),
    "job.no-result": Code(409, "The job ended without a result"),
    "job.crashed-repeatedly": Code(500, "The job's worker died again and again"),
    "result.deleted": Code(410, "The result was deleted"),
    "view.tile": Code(404, "There is no such tile"),
    "view.too-coarse": Code(422, "The slide has no level coarse enough for this view"),
    "view.busy": Code(503, "Too many tiles are asked for"),
    "runner.crashed": Code(500, "The process that decodes and computes died"),
    "runner.stalled": Code(500, "The process that decodes and computes makes no progress"),
    "service.unsuited": Code(422, "The service can't work here"),
    "service.not-ready": Code(503, "The service can't take work right now"),
    "internal": Code(500, "An error of the service itself"),
}


def problem(code: str, detail: str) -> Problem:
    """Make the Problem of a code of the table; statuses below 500 are the user's to act on."""
    status = CODES[code].status
    return Problem(code, detail, status, by_user=status < HTTPStatus.INTERNAL_SERVER_ERROR)


def refusal(code: str, detail: str) -> ServiceError:
    """Make the exception that carries that Problem."""
    return ServiceError(problem(code, detail))


def title(code: str, status: int) -> str:
    """A code's title; for a code from elsewhere the phrase of its status."""
    return CODES[code].title if code in CODES else phrase(status)


def phrase(status: int) -> str:
    """What a status means; of those that no RFC names, such as 460 of tus, that it is one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"
