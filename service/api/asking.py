"""How jobs come about, one or many: checked against the slide's facts, admitted, queued once."""

import hashlib
import uuid
from collections.abc import Sequence
from typing import Annotated

from fastapi import Header, Request
from pydantic import BaseModel

from models.zoo.catalog import ModelCard, catalog
from service.api.access import Caller
from service.api.context import Context
from service.codes import refusal
from service.errors import ServiceError
from service.jobs.job import Job, JobOrder
from service.jobs.slide import Slide
from service.jobs.store import IdempotencyKey, UnknownSlideError
from service.limits import Limits, reserved_bytes
from service.pipeline.failures import describe
from wsi.errors import WsiError
from wsi.geometry import Region, Size
from wsi.slide import Level, SlideInfo
from wsi.tiling import choose_level, source_region

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A word of the client's own: what is sent again under it is done once. Remembered for a day.",
    ),
]


def keyed_by(caller: Caller, key: str | None, request: Request, wanted: BaseModel) -> IdempotencyKey | None:
    """The client's word for this request, and what makes it the same as another; None without a word."""
    if key is None:
        return None
    said = f"{request.scope['route'].path}\n{wanted.model_dump_json()}"
    return IdempotencyKey(caller.owner or "", key, hashlib.sha256(said.encode()).hexdigest())


def checked(context: Context, caller: Caller, order: JobOrder, batch: str | None = None) -> Job:
    """Make a job of an order that the slide's facts and the catalog allow.

    Raises
    ------
    UnknownSlideError, ServiceError
        model.unknown, slide.mpp-missing, slide.mpp-implausible, request.level, request.region, request.plan,
        storage.full.
    """
    slide = context.store.slide(order.slide)
    if slide is None or not caller.sees(slide.owner):
        raise UnknownSlideError(order.slide)
    if order.model not in (models := catalog()):
        raise refusal("model.unknown", f"{order.model!r} is not on offer; on offer are {', '.join(models)}")
    try:
        pixels = _output_pixels(order, slide, models[order.model])
    except WsiError as error:
        raise ServiceError(describe(error)) from error
    context.storage.require_room(0)
    return Job(
        uuid.uuid4().hex,
        order,
        context.clock(),
        owner=caller.owner,
        batch=batch,
        reserved_bytes=reserved_bytes(pixels, order.format, order.quality),
    )


def queued(context: Context, caller: Caller, jobs: Sequence[Job], key: IdempotencyKey | None) -> list[Job]:
    """Queue jobs, all or none, or find those that the same request made before."""
    limits = Limits.of(context.settings, caller.token)
    admit = limits.admit_jobs(jobs, context.storage.room_bytes, context.storage.written_bytes)
    found, _ = context.store.add_jobs(jobs, admit, key)
    return found


def _output_pixels(order: JobOrder, slide: Slide, card: ModelCard) -> int:
    """Pixels of the result; raises what the pipeline would raise for want of a pixel size, a level or a region."""
    facts = slide.facts
    if order.level is not None and order.level >= len(facts.levels):
        raise refusal("request.level", f"level {order.level} was asked for; the slide has {len(facts.levels)}, from 0")
    if order.region is not None:
        x, y, width, height = order.region
        if not (width and height) or x + width > facts.width or y + height > facts.height:
            detail = f"x {x}, y {y}, {width}x{height} px does not lie within {facts.width}x{facts.height} px (level 0)"
            raise refusal("request.region", detail)
    info = SlideInfo(
        name=f"slide {slide.id}",
        reader="",
        levels=tuple(Level(Size(level.width, level.height), level.downsample) for level in facts.levels),
        mpp=facts.mpp,
        objective=facts.objective,
        vendor=facts.vendor,
        bounds=Region(*facts.bounds) if facts.bounds else None,
    )
    mpp = info.trusted_mpp(order.mpp)
    level, scale = choose_level(info, mpp, card.scales, card.default_scale, order.target_mpp, order.level)
    if order.roi is not None:
        if order.region is not None:
            raise refusal("request.roi", "give a region or a region of interest, not both")
        source = source_region(info, level, order.roi.bounds, outward=True)
    else:
        source = source_region(info, level, Region(*order.region) if order.region else None)
    return source.width * source.height * scale * scale
