"""How jobs come about, one or many: checked against the slide's facts, admitted, queued once."""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Protocol

from fastapi import Header, Request
from pydantic import BaseModel

from slidelift.models.zoo.catalog import ModelCard, catalog
from slidelift.service.api.access import Caller
from slidelift.service.api.context import Context
from slidelift.service.errors import ServiceError, refusal
from slidelift.service.jobs.job import Job, JobOrder
from slidelift.service.jobs.quotas import Limits, reserved_bytes
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import IdempotencyKey, UnknownSlideError
from slidelift.service.pipeline.failures import describe
from slidelift.service.pipeline.options import AUTO, Effort
from slidelift.service.pipeline.recommendation import Recommendation, recommend
from slidelift.wsi.errors import WsiError
from slidelift.wsi.slide import SlideInfo
from slidelift.wsi.tiling import plan_source


class Wanted(Protocol):
    """What a recommendation depends on besides the slide."""

    @property
    def mpp(self) -> float | None: ...

    @property
    def target_mpp(self) -> float | None: ...

    @property
    def level(self) -> int | None: ...

    @property
    def effort(self) -> Effort: ...


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
        model.unknown, request.little-to-gain, slide.mpp-missing, slide.mpp-implausible, request.level,
        request.region, request.plan, storage.full.
    """
    slide = context.store.slide(order.slide)
    if slide is None or not caller.sees(slide.owner):
        raise UnknownSlideError(order.slide)
    models = catalog()
    if order.model != AUTO and order.model not in models:
        raise refusal("model.unknown", f"{order.model!r} is not on offer; on offer are {AUTO}, {', '.join(models)}")
    try:
        order = _with_model(context, order, slide)
        pixels = _output_pixels(order, slide, models[order.model])
    except WsiError as error:
        raise ServiceError(describe(error)) from error
    context.storage.require_space(0)
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
    admit = limits.admit_jobs(jobs, context.storage.available_bytes)
    found, _ = context.store.add_jobs(jobs, admit, key)
    return found


def recommended(context: Context, slide: Slide, wanted: Wanted) -> Recommendation:
    """What `service.pipeline.recommendation` answers for an uploaded slide.

    Raises
    ------
    ServiceError
        request.level, slide.mpp-missing, slide.mpp-implausible.
    """
    try:
        return recommend(
            _info(slide),
            mpp=wanted.mpp,
            target_mpp=wanted.target_mpp,
            level=wanted.level,
            effort=wanted.effort,
            device=context.settings.device,
            is_dark=slide.facts.is_dark,
        )
    except WsiError as error:
        raise ServiceError(describe(error)) from error


def _with_model(context: Context, order: JobOrder, slide: Slide) -> JobOrder:
    """The order with a model of the catalog in the place of "auto"."""
    if order.model != AUTO:
        return order
    found = recommended(context, slide, order)
    if found.model is None:
        raise refusal("request.little-to-gain", f"{found.reason} Name a model to run it anyway")
    return replace(order, model=found.model, level=found.level, chosen_because=found.reason)


def _info(slide: Slide) -> SlideInfo:
    return SlideInfo.from_dict(asdict(slide.facts), f"slide {slide.id}")


def _output_pixels(order: JobOrder, slide: Slide, card: ModelCard) -> int:
    """Pixels of the result; raises WsiError where the pipeline would refuse the request."""
    source = plan_source(
        _info(slide),
        card.scales,
        card.default_scale,
        mpp=order.mpp,
        target_mpp=order.target_mpp,
        level=order.level,
        region=order.region,
        roi=order.loaded_roi(),
    )
    return source.output.width * source.output.height
