"""Errors of uploads that several modules raise."""

from slidelift.service.errors import ServiceError, problem, refusal


class ServiceStoppingError(ServiceError):
    """The service is stopping; the upload is intact and the next start finishes it."""

    def __init__(self) -> None:
        super().__init__(problem("service.not-ready", "the service is stopping; ask for the upload again in a moment"))


def unknown_upload(upload_id: str) -> ServiceError:
    """Make the error for an id that names no upload, or an upload of another owner."""
    return refusal("upload.unknown", f"{upload_id}: no such upload, or it has expired; begin a new upload")


def upload_too_large(max_bytes: int) -> ServiceError:
    """Make the error for an upload over the size limit."""
    return refusal("upload.too-large", f"this service accepts up to {max_bytes} bytes (SLIDELIFT_MAX_UPLOAD_BYTES)")
