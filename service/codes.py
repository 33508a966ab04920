"""The codes that the service answers with: one table of code, HTTP status and title.

Codes are stable: clients may branch on them. A Problem that comes from the slide or the model (`service.errors`) brings
its own status; the table then only lends it a title.
"""

from dataclasses import dataclass
from http import HTTPStatus

from service.errors import Problem, ServiceError


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
    "request.format": Code(422, "The output's name says no known format"),
    "request.output": Code(422, "The output can't be written there"),
    "request.in-progress": Code(409, "Another process is making this output"),
    "route.unknown": Code(404, "There is nothing at this address"),
    "method.not-allowed": Code(405, "This address does not know that method"),
    "slide.unknown": Code(404, "There is no such slide"),
    "slide.unreadable": Code(422, "The file can't be read as a slide"),
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
    "upload.multipart": Code(415, "Uploads are the bare file"),
    "upload.content-range": Code(400, "Uploads can't be continued"),
    "upload.incomplete": Code(400, "The upload did not arrive whole"),
    "upload.digest-invalid": Code(400, "The digest can't be understood"),
    "upload.digest-mismatch": Code(400, "What arrived is not what was sent"),
    "storage.full": Code(507, "The disk is full"),
    "storage.unusable": Code(500, "A file can't be read or written"),
    "result.verification": Code(500, "The written file does not read back as it should"),
    "job.unknown": Code(404, "There is no such job"),
    "job.cancelled": Code(409, "The job was cancelled"),
    "job.not-cancellable": Code(409, "The job has already ended"),
    "job.not-finished": Code(409, "The job has not finished"),
    "job.no-result": Code(409, "The job ended without a result"),
    "job.crashed-repeatedly": Code(500, "The job's worker died again and again"),
    "result.deleted": Code(410, "The result was deleted"),
    "runner.crashed": Code(500, "The process that decodes and computes died"),
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
    return CODES[code].title if code in CODES else HTTPStatus(status).phrase
