"""Schemas of uploads."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from slidelift.service.api.schemas.fields import utc
from slidelift.service.api.schemas.problems import Problem
from slidelift.service.uploads.upload import UploadState, UploadStatus


class SlideSource(BaseModel):
    """URI of a slide that the service fetches."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(
        min_length=1,
        max_length=4096,
        description="A file, s3 or https URI; the service's settings define which are allowed.",
        examples=["https://example.org/slide.svs"],
    )
    name: str | None = Field(
        default=None, max_length=255, description="The slide's name; by default the last segment of the URI."
    )


class Upload(BaseModel):
    """An upload: its state, the bytes received, and the slide that it became."""

    id: str
    state: UploadState
    bytes: int = Field(description="Bytes received.")
    total_bytes: int | None = Field(description="Size of the file; null while unknown.")
    expires: datetime = Field(description="When the upload is deleted if nothing more arrives.")
    slide: str | None = Field(description="Id of the slide that it became; null before.")
    error: Problem | None = Field(description="Why it failed; null otherwise.")

    @classmethod
    def of(cls, seen: UploadStatus, url: str) -> Self:
        """Make the representation of an upload whose URL is `url`."""
        upload, error = seen.upload, seen.upload.error
        return cls(
            id=upload.id,
            state=seen.state,
            bytes=seen.bytes,
            total_bytes=upload.total_bytes,
            expires=utc(seen.expires),
            slide=upload.slide,
            error=None if error is None else Problem.of(error, url),
        )
