"""The record of an upload (`info.json`) and its state."""

from dataclasses import dataclass
from enum import StrEnum

from slidelift.service.errors import Problem


class UploadMethod(StrEnum):
    """How the bytes of an upload arrive."""

    PUT = "put"
    FORM = "form"
    TUS = "tus"
    URI = "uri"

    @property
    def is_single_request(self) -> bool:
        """True if the upload cannot be continued after its request, because no client knows its id."""
        return self in (UploadMethod.PUT, UploadMethod.FORM)


class UploadState(StrEnum):
    """State of an upload, as clients see it."""

    ARRIVING = "arriving"
    CHECKING = "checking"
    LANDED = "landed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Upload:
    """The record of an upload.

    Attributes
    ----------
    id
        Random. The slide made of the upload gets the same id.
    name
        The slide's name, given by the user.
    owner
        Id of the access token that began the upload, None if the service requires no tokens.
    total_bytes
        Announced size, None while unknown.
    expected_bytes
        Size to reserve space for: `total_bytes`, or a known upper bound, or 0.
    metadata
        The client's Upload-Metadata header, returned by HEAD.
    is_complete
        True once all bytes are received and durable; nothing is appended afterwards.
    bytes
        Final size, set when the upload has become a slide or failed. Until then the size of the data file counts.
    """

    id: str
    name: str
    method: UploadMethod
    owner: str | None
    total_bytes: int | None
    expected_bytes: int
    metadata: str
    created: float
    is_complete: bool = False
    bytes: int | None = None
    slide: str | None = None
    error: Problem | None = None

    @property
    def is_finished(self) -> bool:
        """True once it has become a slide or failed."""
        return self.bytes is not None


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """Status of an upload at one moment; `is_locked` while a request or thread writes or finishes it."""

    upload: Upload
    bytes: int
    expires: float
    is_locked: bool

    @property
    def state(self) -> UploadState:
        """The state that clients see."""
        if self.upload.error is not None:
            return UploadState.FAILED
        if self.upload.slide is not None:
            return UploadState.LANDED
        return UploadState.CHECKING if self._has_all_bytes else UploadState.ARRIVING

    @property
    def needs_finishing(self) -> bool:
        """True if all bytes are there but the process that was finishing the upload was killed."""
        return self._has_all_bytes and not self.upload.is_finished and not self.is_locked

    @property
    def _has_all_bytes(self) -> bool:
        """True also after a crash between the last byte and `is_complete`: a tus client takes that for the end."""
        return self.upload.is_complete or (
            self.upload.method is UploadMethod.TUS and self.bytes == self.upload.total_bytes
        )
