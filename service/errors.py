"""Errors of the service: the Problem that crosses processes and HTTP, its stable codes, and the exceptions.

    Problem                 one failure: code, detail, HTTP status, exit code
    ServiceError            the exception that carries a Problem
    └── Cancelled           the work was cancelled

Codes are stable, so that clients can branch on them. `CODES` maps each code to its HTTP status and title.
`service.pipeline.failures` converts exceptions to Problems.
"""

from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from slidelift.errors import SlideliftError

EXIT_DONE, EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Problem:
    """One failure, with what the user can do about it.

    Attributes
    ----------
    code
        Stable and machine-readable, such as ``slide.unreadable``.
    detail
        What happened, to which file or tile, and what to try.
    status
        The HTTP status of the response that reports it.
    by_user
        True if the user must change the request or the slide (exit code 2).
    """

    code: str
    detail: str
    status: int = 500
    by_user: bool = False

    @property
    def exit_code(self) -> int:
        """Exit code of the command line."""
        return EXIT_USER if self.by_user else EXIT_FAILED

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


class ServiceError(SlideliftError):
    """Carries a Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Cancelled(ServiceError):  # noqa: N818 - not an error
    """The work was cancelled on request."""

    def __init__(self) -> None:
        super().__init__(Problem("job.cancelled", "cancelled on request", 409))


@dataclass(frozen=True, slots=True)
class Code:
    """HTTP status and title of a problem code."""

    status: int
    title: str


CODES = {
    "request.invalid": Code(422, "The request is not valid"),
    "request.region": Code(422, "The region is not inside the slide"),
    "request.roi": Code(422, "The region of interest is not valid"),
    "request.level": Code(422, "The slide does not have this level"),
    "request.range": Code(416, "The file does not have the requested range"),
    "request.plan": Code(422, "The request does not fit this slide"),
    "request.little-to-gain": Code(422, "No model would improve this slide enough"),
    "request.format": Code(422, "The output's file name has no known format"),
    "request.output": Code(422, "The output can't be written"),
    "request.in-progress": Code(409, "Another process is writing this output"),
    "route.unknown": Code(404, "Address not found"),
    "method.not-allowed": Code(405, "Method not allowed for this address"),
    "request.precondition": Code(412, "Precondition failed"),
    "request.idempotency-key": Code(422, "The idempotency key was used with another request"),
    "request.too-large": Code(413, "The request is too large"),
    "request.timeout": Code(408, "The request did not arrive in time"),
    "access.token-missing": Code(401, "An access token is required"),
    "access.token-invalid": Code(401, "The access token is not valid"),
    "access.scope": Code(403, "The access token does not allow this"),
    "access.cross-site": Code(403, "Requests from other sites are not allowed"),
    "access.unsafe": Code(422, "The service would be open to the network without tokens"),
    "quota.jobs": Code(429, "Too many unfinished jobs"),
    "quota.bytes": Code(429, "The slides exceed the storage quota"),
    "quota.uploads": Code(429, "Too many unfinished uploads"),
    "queue.full": Code(429, "The queue is full"),
    "token.unknown": Code(404, "Token not found"),
    "database.url": Code(422, "The database can't be opened"),
    "data.identity": Code(422, "The data folder and the database do not belong together"),
    "store.unavailable": Code(503, "The database does not respond"),
    "slide.unknown": Code(404, "Slide not found"),
    "slide.unreadable": Code(422, "The file can't be read as a slide"),
    "slide.not-checked": Code(503, "The slide could not be checked"),
    "slide.foreign-file": Code(422, "The slide refers to a file outside its folder"),
    "slide.multi-file": Code(422, "The format needs several files"),
    "slide.mpp-missing": Code(422, "The slide has no pixel size"),
    "slide.mpp-implausible": Code(422, "The slide's pixel size is implausible"),
    "slide.unsupported-pixels": Code(422, "The slide's pixels are not 8-bit colour"),
    "slide.not-brightfield": Code(422, "The slide is not a brightfield scan"),
    "slide.tile-unreadable": Code(422, "A tile of the slide can't be decoded"),
    "slide.in-use": Code(409, "An unfinished job needs the slide"),
    "slide.crashes-decoder": Code(422, "The slide crashes the decoder"),
    "model.unknown": Code(422, "Model not found"),
    "model.weights": Code(422, "The weights file can't be used"),
    "model.scale": Code(422, "The model does not support this scale"),
    "model.non-finite": Code(422, "The model returned invalid values for a tile"),
    "cluster.address": Code(422, "The scheduler's address is not valid"),
    "cluster.not-installed": Code(422, "The packages for clusters are not installed"),
    "cluster.unreachable": Code(503, "The cluster does not respond"),
    "cluster.workers": Code(500, "The cluster's workers can't run the job"),
    "device.missing": Code(422, "Device not found"),
    "device.out-of-memory": Code(500, "A single tile does not fit into memory"),
    "training.recipe": Code(422, "The training recipe is not valid"),
    "images.unusable": Code(422, "The images can't be used"),
    "training.failed": Code(500, "Training failed"),
    "upload.name": Code(422, "The name is not a valid file name"),
    "upload.empty": Code(422, "The upload is empty"),
    "upload.too-large": Code(413, "The upload is too large"),
    "upload.multipart": Code(415, "PUT does not accept forms"),
    "upload.content-range": Code(400, "PUT does not accept parts of a file"),
    "upload.incomplete": Code(400, "The upload is incomplete"),
    "upload.digest-invalid": Code(400, "The digest is not valid"),
    "upload.digest-mismatch": Code(400, "The received bytes do not match the digest"),
    "upload.form": Code(400, "The form is not valid"),
    "upload.header": Code(400, "An upload header is not valid"),
    "upload.media-type": Code(415, "Unsupported media type"),
    "upload.tus-version": Code(412, "Unsupported tus version"),
    "upload.unknown": Code(404, "Upload not found"),
    "upload.expired": Code(410, "The upload has expired"),
    "upload.offset": Code(409, "The offset does not match the received bytes"),
    "upload.locked": Code(423, "Another request is writing the upload"),
    "upload.checksum": Code(460, "The piece does not match its checksum"),
    "upload.bundle": Code(422, "The archive does not contain exactly one slide"),
    "upload.uri-not-allowed": Code(403, "The service may not fetch from this address"),
    "upload.source": Code(422, "The slide could not be fetched"),
    "upload.interrupted": Code(503, "The service stopped while it fetched the slide"),
    "storage.full": Code(507, "The disk is full"),
    "storage.unusable": Code(500, "A file can't be read or written"),
    "result.verification": Code(500, "The written file failed verification"),
    "job.unknown": Code(404, "Job not found"),
    "job.cancelled": Code(409, "The job was cancelled"),
    "job.state": Code(409, "The job's state does not allow this"),
    "batch.unknown": Code(404, "Batch not found"),
    "job.not-finished": Code(409, "The job has not finished"),
    "job.no-result": Code(409, "The job has no result"),
    "job.crashed-repeatedly": Code(500, "The job's worker crashed repeatedly"),
    "result.deleted": Code(410, "The result was deleted"),
    "view.tile": Code(404, "Tile not found"),
    "view.too-coarse": Code(422, "The slide has no level that is coarse enough for this view"),
    "view.busy": Code(503, "Too many tiles are requested"),
    "runner.crashed": Code(500, "The process that runs the job crashed"),
    "runner.stalled": Code(500, "The process that runs the job made no progress"),
    "service.unsuited": Code(422, "The service can't run here"),
    "service.not-ready": Code(503, "The service is not ready"),
    "internal": Code(500, "Internal error"),
}


def problem(code: str, detail: str) -> Problem:
    """Make the Problem of a code in `CODES`; a status below 500 means that the user can act."""
    status = CODES[code].status
    return Problem(code, detail, status, by_user=status < HTTPStatus.INTERNAL_SERVER_ERROR)


def refusal(code: str, detail: str) -> ServiceError:
    """Make the exception that carries the Problem of a code in `CODES`."""
    return ServiceError(problem(code, detail))


def title(code: str, status: int) -> str:
    """Title of a code; of a code that is not in `CODES`, the phrase of its status."""
    return CODES[code].title if code in CODES else phrase(status)


def phrase(status: int) -> str:
    """Reason phrase of a status; a generic one for statuses without, such as 460 of tus."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"
