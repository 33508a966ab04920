"""Schemas of slides and model recommendations."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from slidelift.service.api.schemas.fields import utc
from slidelift.service.jobs import slide as stored
from slidelift.wsi.slide import Codec


class Level(BaseModel):
    """One resolution of a slide: its size in pixels, and level-0 pixels per pixel of it."""

    model_config = ConfigDict(from_attributes=True)

    width: int
    height: int
    downsample: float


class Compression(BaseModel):
    """Compression of a slide's level 0."""

    model_config = ConfigDict(from_attributes=True)

    codec: Codec
    quality: int | None = Field(description="The libjpeg quality whose quantisation table is nearest to the file's.")
    sampling: str | None = Field(description="Chroma sampling, or RGB for no colour transform.")


class Slide(BaseModel):
    """An uploaded slide."""

    id: str
    name: str
    bytes: int
    sha256: str
    width: int
    height: int
    mpp: tuple[float, float] | None = Field(description="µm per pixel (x, y) of level 0 from the slide's metadata.")
    objective: float | None
    vendor: str | None
    levels: list[Level]
    compression: Compression | None = Field(description="Null where the file does not say.")
    is_dark: bool = Field(description="Whether it is mostly black, as in fluorescence.")
    warnings: list[str]
    created: datetime

    @classmethod
    def of(cls, slide: stored.Slide) -> Self:
        """Make the representation of a stored slide."""
        facts = slide.facts
        return cls(
            id=slide.id,
            name=slide.name,
            bytes=slide.bytes,
            sha256=slide.sha256,
            width=facts.width,
            height=facts.height,
            mpp=facts.mpp,
            objective=facts.objective,
            vendor=facts.vendor,
            levels=[Level.model_validate(level) for level in facts.levels],
            compression=Compression.model_validate(facts.compression) if facts.compression else None,
            is_dark=facts.is_dark,
            warnings=list(facts.warnings),
            created=utc(slide.created),
        )


class SlideList(BaseModel):
    """A page of slides, newest first."""

    slides: list[Slide]
    next: str | None = Field(description="URL of the next page; null on the last page.")


class Recommendation(BaseModel):
    """The recommended model for a slide; `model` is null where no model would improve it enough."""

    model_config = ConfigDict(from_attributes=True)

    model: str | None
    level: int | None = Field(description="Source level.")
    scale: int | None
    mpp: float | None = Field(description="µm per pixel of the result.")
    reason: str
    warnings: list[str]
