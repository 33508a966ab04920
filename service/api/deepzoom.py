"""Routes of the viewer: slides and results as Deep Zoom tiles, decoded in separate processes."""

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
from slidelift.service.api.responses import BINARY, ResponseDocs, etag_matches, get_and_head, json_response
from slidelift.service.errors import ServiceError, refusal
from slidelift.service.jobs.job import JobState
from slidelift.service.jobs.slide import Slide
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.wsi.deepzoom import DeepZoom
from slidelift.wsi.geometry import Size

router = APIRouter(prefix="/v1", tags=["view"], responses=error_responses())

ENCODING = "1"
"""Part of every ETag. Increase it when the bytes of existing tiles change, so that caches do not mix old and new."""
_IMMUTABLE = "private, max-age=604800, immutable"
_UNFINISHED = "no-store"
_NO_SNIFF = {"X-Content-Type-Options": "nosniff"}

T = TypeVar("T")


_Index = Annotated[int, Path(ge=0, lt=2**31)]
_LevelIndex = Annotated[int, Path(ge=0, le=40, description="0 is one pixel; the largest is the full resolution.")]


@dataclass(frozen=True, slots=True)
class _TileAddress:
    """The tile that a URL names."""

    level: _LevelIndex
    column: _Index
    row: _Index
    tile_format: TileFormat


@dataclass(frozen=True, slots=True)
class _Image:
    """An image to show; `sha256` of its file, or None for an unfinished result, which still changes."""

    source: ImageSource
    sha256: str | None


InAddress = Annotated[_TileAddress, Depends()]
_DESCRIPTOR: ResponseDocs = {200: {"content": {"application/xml": BINARY}, "description": "The Deep Zoom descriptor."}}
_TILE: ResponseDocs = {
    200: {"content": {"image/jpeg": BINARY, "image/png": BINARY}, "description": "The tile."},
    304: {"description": "Not modified: the ETag matches If-None-Match."},
}


class _TilePart(StringConvertor):
    """Text without `_` and `.`: matches in linear time, where the default converter backtracks at each of them."""

    regex = "[^/_.]+"


register_url_convertor("piece", _TilePart())
_TILE_PATH = "{level}/{column:piece}_{row:piece}.{tile_format}"


@get_and_head(
    router,
    "/slides/{slide}.dzi",
    operation_id="get_slide_descriptor",
    response_class=Response,
    responses=_DESCRIPTOR,
    summary="Get the Deep Zoom descriptor of a slide",
)
def get_slide_descriptor(slide: slides.SlideId, context: InContext, caller: InCaller) -> Response:
    """Describe the slide's tiles. OpenSeadragon and other viewers open this URL."""
    facts = slides.find_slide(context, caller, slide).facts
    return _descriptor(DeepZoom(Size(facts.width, facts.height)), TileFormat.JPEG, _IMMUTABLE)


@get_and_head(
    router,
    f"/slides/{{slide}}_files/{_TILE_PATH}",
    operation_id="get_slide_tile",
    response_class=Response,
    responses=_TILE,
    summary="Get a tile of a slide",
)
async def get_slide_tile(
    slide: slides.SlideId,
    address: InAddress,
    request: Request,
    context: InContext,
    caller: InCaller,
) -> Response:
    """Return 512 x 512 pixels of the slide, fewer at its right and bottom edge."""

    def find() -> _Image:
        found = slides.find_slide(context, caller, slide)
        return _Image(ImageSource("slide", context.storage.slide_path(found), f"slide {found.id}"), found.sha256)

    return await _with_image(find, lambda image: _tile(request, context, image, address))


@get_and_head(
    router,
    "/jobs/{job}/result.dzi",
    operation_id="get_result_descriptor",
    response_class=Response,
    responses=_DESCRIPTOR,
    summary="Get the Deep Zoom descriptor of a result",
)
async def get_result_descriptor(job: jobs.JobId, context: InContext, caller: InCaller) -> Response:
    """Describe the result's tiles. While the job runs, they show the finished stripes.

    Tiles of an unfinished result are PNG and transparent where no stripe is finished. To refresh a viewer, open
    result.dzi?n=1, result.dzi?n=2 and so on, which the viewer treats as different images.
    """

    async def descriptor(image: _Image) -> Response:
        zoom = DeepZoom(Size(*await context.decoders.size(image.source)))
        return _descriptor(zoom, TileFormat.JPEG if image.sha256 else TileFormat.PNG, "private, no-cache")

    return await _with_image(lambda: _result(context, caller, job), descriptor)


@get_and_head(
    router,
    f"/jobs/{{job}}/result_files/{_TILE_PATH}",
    operation_id="get_result_tile",
    response_class=Response,
    responses=_TILE,
    summary="Get a tile of a result",
)
async def get_result_tile(
    job: jobs.JobId,
    address: InAddress,
    request: Request,
    context: InContext,
    caller: InCaller,
) -> Response:
    """Return 512 x 512 pixels of the result, fewer at its right and bottom edge."""
    return await _with_image(
        lambda: _result(context, caller, job), lambda image: _tile(request, context, image, address)
    )


@get_and_head(
    router,
    "/jobs/{job}/map",
    operation_id="get_tile_map",
    response_model=schemas.TileMap,
    summary="Get the outcome of each tile of a result",
)
async def get_tile_map(job: jobs.JobId, context: InContext, caller: InCaller) -> Response:
    """Return the result's position on the slide, the outcome of each finished tile and its agreement with the source.

    Also available while the job runs.
    """
    found = await _with_image(lambda: _result(context, caller, job), lambda image: context.decoders.map(image.source))
    return await run_in_threadpool(
        lambda: json_response(schemas.TileMap.model_validate(found))
    )  # of 100,000 tiles and more


async def _with_image(find: Callable[[], _Image], use: Callable[[_Image], Awaitable[T]]) -> T:
    """Find an image and use it; on failure find it again.

    The image may have been deleted in between, which the second search reports, or an unfinished result may have been
    finished, which is then used.
    """
    image = await run_in_threadpool(find)
    try:
        return await use(image)
    except ServiceError:
        current = await run_in_threadpool(find)
        if current.source == image.source:
            raise
    return await use(current)


def _result(context: Context, caller: Caller, job_id: str) -> _Image:
    found = jobs.find_job(context, caller, job_id)
    order, storage = found.order, context.storage
    if found.state is JobState.SUCCEEDED:
        path = storage.result_path(found)
        if found.result is None or path is None or not path.exists():
            raise refusal("result.deleted", f"the result of job {found.id} was deleted; create the job again")
        source = ImageSource(
            "result", path, f"result of job {found.id}", order.format, report=storage.report_path(found)
        )
        return _Image(source, found.result.sha256)
    if found.state is JobState.CANCELLED or found.result_deleted is not None:
        raise refusal("job.no-result", f"job {found.id} is {found.state}, and none of its stripes was kept")
    slide: Slide | None = context.store.slide(order.slide)
    if slide is None:
        raise refusal("job.no-result", f"the slide of job {found.id} was deleted")
    mpp = (order.mpp, order.mpp) if order.mpp else None
    output, name = storage.output_path(found), f"result of job {found.id}"
    return _Image(ImageSource("stripes", output, name, order.format, storage.slide_path(slide), mpp), None)


def _descriptor(zoom: DeepZoom, tile_format: TileFormat, cache_control: str) -> Response:
    headers = {"Cache-Control": cache_control, **_NO_SNIFF}
    return Response(zoom.descriptor(tile_format), media_type="application/xml", headers=headers)


async def _tile(request: Request, context: Context, image: _Image, address: _TileAddress) -> Response:
    etag = _etag(image.sha256, address) if image.sha256 else None
    headers: dict[str, Any] = {**_NO_SNIFF, "Cache-Control": _IMMUTABLE if etag else _UNFINISHED}
    if etag:
        headers["ETag"] = etag
        if etag_matches(request, etag):
            return Response(status_code=304, headers=headers)
    tile = context.tile_cache.get(etag) if etag else None
    if tile is None:
        tile = await context.decoders.tile(
            image.source, address.level, address.column, address.row, address.tile_format, request.is_disconnected
        )
        if etag:
            context.tile_cache.put(etag, tile)
    return Response(tile, media_type=f"image/{address.tile_format}", headers=headers)


def _etag(sha256: str, address: _TileAddress) -> str:
    key = ".".join((ENCODING, sha256, *map(str, astuple(address))))
    return f'"{hashlib.sha256(key.encode()).hexdigest()[:32]}"'
