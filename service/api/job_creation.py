"""Creates jobs: checks orders against slide and model, applies quotas and queues the jobs."""

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


class RecommendationOptions(Protocol):
    """Options that a recommendation depends on."""

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
        description="Chosen by the client. A request that is repeated with the same key within a day is executed once.",
    ),
]


def idempotency_key(caller: Caller, key: str | None, request: Request, wanted: BaseModel) -> IdempotencyKey | None:
    """Return the key with a hash of route and body, which identifies a repeated request; None without a key."""
    if key is None:
        return None
    content = f"{request.scope['route'].path}\n{wanted.model_dump_json()}"
    return IdempotencyKey(caller.owner or "", key, hashlib.sha256(content.encode()).hexdigest())


def new_job(context: Context, caller: Caller, order: JobOrder, batch: str | None = None) -> Job:
    """Check an order against slide and catalog and return its job, which is not queued yet.

    Raises
    ------
    UnknownSlideError, ServiceError
        model.unknown, request.little-to-gain, slide.mpp-missing, slide.mpp-implausible, request.level, request.region,
        request.roi, request.plan, storage.full.
    """
    slide = context.store.slide(order.slide)
    if slide is None or not caller.sees(slide.owner):
        raise UnknownSlideError(order.slide)
    models = catalog()
    if order.model != AUTO and order.model not in models:
        raise refusal("model.unknown", f"there is no model {order.model!r}; the models are {AUTO}, {', '.join(models)}")
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


def queue_jobs(context: Context, caller: Caller, jobs: Sequence[Job], key: IdempotencyKey | None) -> list[Job]:
    """Queue all jobs or none, or return those that an earlier request with the same key made."""
    limits = Limits.of(context.settings, caller.token)
    admit = limits.admit_jobs(jobs, context.storage.available_bytes)
    stored, _ = context.store.add_jobs(jobs, admit, key)
    return stored


def recommend_model(context: Context, slide: Slide, options: RecommendationOptions) -> Recommendation:
    """Recommend a model for an uploaded slide; see `service.pipeline.recommendation`.

    Raises
    ------
    ServiceError
        request.level, slide.mpp-missing, slide.mpp-implausible.
    """
    try:
        return recommend(
            _info(slide),
            mpp=options.mpp,
            target_mpp=options.target_mpp,
            level=options.level,
            effort=options.effort,
            device=context.settings.device,
            is_dark=slide.facts.is_dark,
        )
    except WsiError as error:
        raise ServiceError(describe(error)) from error


def _with_model(context: Context, order: JobOrder, slide: Slide) -> JobOrder:
    """Replace the model "auto" by the recommended one."""
    if order.model != AUTO:
        return order
    answer = recommend_model(context, slide, order)
    if answer.model is None:
        raise refusal("request.little-to-gain", f"{answer.reason} Name a model to run it anyway")
    return replace(order, model=answer.model, level=answer.level, chosen_because=answer.reason)


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
