"""Deep Zoom: slides and results as a viewer's tiles, decoded in processes of their own."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor

from slidelift.service.api import jobs, schemas, slides
from slidelift.service.api.access import Caller, InCaller
from slidelift.service.api.context import Context, InContext
from slidelift.service.api.problems import error_responses
from slidelift.service.api.responses import ResponseDocs, etag_matches, get_and_head, json_response
from slidelift.service.errors import ServiceError, refusal
from slidelift.service.jobs.job import JobState
from slidelift.service.jobs.slide import Slide
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.wsi.deepzoom import DeepZoom
from slidelift.wsi.geometry import Size

router = APIRouter(prefix="/v1", tags=["view"], responses=error_responses())

ENCODING = "1"
"""Counted up when tiles of the same slide come out otherwise than before: caches must not mix them."""
_FOREVER = "private, max-age=604800, immutable"
_GROWING = "no-store"
_SAFE = {"X-Content-Type-Options": "nosniff"}

Seen = TypeVar("Seen")


_Number = Annotated[int, Path(ge=0, lt=2**31)]
_LevelNumber = Annotated[int, Path(ge=0, le=40, description="0 is one pixel; the largest is the picture's own size.")]


@dataclass(frozen=True, slots=True)
class _Place:
    """Which tile, as its address says it."""

    level: _LevelNumber
    column: _Number
    row: _Number
    tile_format: TileFormat


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is looked at, and the hash of what its tiles are taken from; None where that still grows."""

    source: ImageSource
    content: str | None


InPlace = Annotated[_Place, Depends()]
_DESCRIPTOR: ResponseDocs = {200: {"content": {"application/xml": {}}, "description": "A Deep Zoom descriptor."}}
_TILE: ResponseDocs = {
    200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The tile."},
    304: {"description": "The client has just that."},
}


class _Piece(StringConvertor):
    """What `_` or `.` ends: matched in one pass, where the framework's own would try each of a thousand marks."""

    regex = "[^/_.]+"


register_url_convertor("piece", _Piece())
_PLACE = "{level}/{column:piece}_{row:piece}.{tile_format}"


@get_and_head(
    router,
    "/slides/{slide}.dzi",
    operation_id="get_slide_descriptor",
    response_class=Response,
    responses=_DESCRIPTOR,
    summary="A slide for a viewer",
)
def get_slide_descriptor(slide: slides.SlideId, context: InContext, caller: InCaller) -> Response:
    """Describe the slide as Deep Zoom does; OpenSeadragon opens this address."""
    facts = slides.find_slide(context, caller, slide).facts
    return _described(DeepZoom(Size(facts.width, facts.height)), TileFormat.JPEG, _FOREVER)


@get_and_head(
    router,
    f"/slides/{{slide}}_files/{_PLACE}",
    operation_id="get_slide_tile",
    response_class=Response,
    responses=_TILE,
    summary="A tile of a slide",
)
async def get_slide_tile(
    slide: slides.SlideId,
    place: InPlace,
    request: Request,
    context: InContext,
    caller: InCaller,
) -> Response:
    """Send 512 x 512 pixels of the slide, fewer at its right and lower edge."""

    def find() -> _Subject:
        found = slides.find_slide(context, caller, slide)
        return _Subject(ImageSource("slide", context.storage.slide_path(found), f"slide {found.id}"), found.sha256)

    return await _seen(find, lambda subject: _tile(request, context, subject, place))


@get_and_head(
    router,
    "/jobs/{job}/result.dzi",
    operation_id="get_result_descriptor",
    response_class=Response,
    responses=_DESCRIPTOR,
    summary="A result for a viewer",
)
async def get_result_descriptor(job: jobs.JobId, context: InContext, caller: InCaller) -> Response:
    """Describe the result as Deep Zoom does, while the job runs what is finished of it.

    Tiles of a result in the making are PNG, transparent where no stripe is finished yet. A viewer that wants to see
    more of it later asks for result.dzi?n=1, ?n=2 and so on, which it takes for other pictures.
    """

    async def described(subject: _Subject) -> Response:
        zoom = DeepZoom(Size(*await context.decoders.size(subject.source)))
        return _described(zoom, TileFormat.JPEG if subject.content else TileFormat.PNG, "private, no-cache")

    return await _seen(lambda: _result(context, caller, job), described)


@get_and_head(
    router,
    f"/jobs/{{job}}/result_files/{_PLACE}",
    operation_id="get_result_tile",
    response_class=Response,
    responses=_TILE,
    summary="A tile of a result",
)
async def get_result_tile(
    job: jobs.JobId,
    place: InPlace,
    request: Request,
    context: InContext,
    caller: InCaller,
) -> Response:
    """Send 512 x 512 pixels of the result, fewer at its right and lower edge."""
    return await _seen(lambda: _result(context, caller, job), lambda subject: _tile(request, context, subject, place))


@get_and_head(
    router,
    "/jobs/{job}/map",
    operation_id="get_tile_map",
    response_model=schemas.TileMap,
    summary="What became of each tile",
)
async def get_tile_map(job: jobs.JobId, context: InContext, caller: InCaller) -> Response:
    """Tell where the result lies on the slide, and of each finished tile what became of it and how near its source is.

    Answered while the job runs, too.
    """
    found = await _seen(lambda: _result(context, caller, job), lambda subject: context.decoders.map(subject.source))
    return await run_in_threadpool(
        lambda: json_response(schemas.TileMap.model_validate(found))
    )  # of 100,000 tiles and more


async def _seen(find: Callable[[], _Subject], look: Callable[[_Subject], Awaitable[Seen]]) -> Seen:
    """What a look finds. Where it fails, its subject may have gone since it was found: then that is what is told.

    A result in the making that was finished meanwhile is looked at once more.
    """
    subject = await run_in_threadpool(find)
    try:
        return await look(subject)
    except ServiceError:
        now = await run_in_threadpool(find)
        if now.source == subject.source:
            raise
    return await look(now)


def _result(context: Context, caller: Caller, job_id: str) -> _Subject:
    found = jobs.find_job(context, caller, job_id)
    order, storage = found.order, context.storage
    if found.state is JobState.SUCCEEDED:
        path = storage.result_path(found)
        if found.result is None or path is None or not path.exists():
            raise refusal("result.deleted", f"the result of job {found.id} was deleted; post the job again to see it")
        source = ImageSource(
            "result", path, f"result of job {found.id}", order.format, report=storage.report_path(found)
        )
        return _Subject(source, found.result.sha256)
    if found.state is JobState.CANCELLED or found.result_deleted is not None:
        raise refusal("job.no-result", f"job {found.id} is {found.state}, and nothing of it was kept")
    slide: Slide | None = context.store.slide(order.slide)
    if slide is None:
        raise refusal("job.no-result", f"the slide of job {found.id} was deleted")
    mpp = (order.mpp, order.mpp) if order.mpp else None
    output, name = storage.output_path(found), f"result of job {found.id}"
    return _Subject(ImageSource("stripes", output, name, order.format, storage.slide_path(slide), mpp), None)


def _described(zoom: DeepZoom, tile_format: TileFormat, cached: str) -> Response:
    return Response(
        zoom.descriptor(tile_format), media_type="application/xml", headers={"Cache-Control": cached, **_SAFE}
    )


async def _tile(request: Request, context: Context, subject: _Subject, place: _Place) -> Response:
    tag = _tag(subject.content, place) if subject.content else None
    headers: dict[str, Any] = {**_SAFE, "Cache-Control": _FOREVER if tag else _GROWING}
    if tag:
        headers["ETag"] = tag
        if etag_matches(request, tag):
            return Response(status_code=304, headers=headers)
    tile = context.tile_cache.get(tag) if tag else None
    if tile is None:
        tile = await context.decoders.tile(
            subject.source, place.level, place.column, place.row, place.tile_format, request.is_disconnected
        )
        if tag:
            context.tile_cache.put(tag, tile)
    return Response(tile, media_type=f"image/{place.tile_format}", headers=headers)


def _tag(content: str, place: _Place) -> str:
    words = ".".join((ENCODING, content, *map(str, astuple(place))))
    return f'"{hashlib.sha256(words.encode()).hexdigest()[:32]}"'
