"""Super-resolution for whole-slide images.

    slidelift.upscale("slide.svs", "slide-4x.ome.tiff")     upscale a slide into a pyramid
    slidelift.upscale_array(rgb)                            upscale an image in memory
    slidelift.Client("http://127.0.0.1:8000")               call a slidelift service

Names other than `upscale` and `upscale_array` are imported at first use: importing slidelift loads neither torch nor a
decoder.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slidelift.errors import SlideliftError
    from slidelift.models.errors import ModelError
    from slidelift.models.upscaler import PatchUpscaler, load_upscaler
    from slidelift.service.client import Client, ClientError
    from slidelift.service.errors import Cancelled, ServiceError
    from slidelift.service.pipeline.progress import CancelToken, Progress
    from slidelift.service.pipeline.report import Report
    from slidelift.service.pipeline.request import UpscaleRequest
    from slidelift.wsi.errors import SlideError, WsiError
    from slidelift.wsi.readers.open_slide import open_slide

__all__ = [
    "CancelToken",
    "Cancelled",
    "Client",
    "ClientError",
    "ModelError",
    "Report",
    "ServiceError",
    "SlideError",
    "SlideliftError",
    "UpscaleRequest",
    "WsiError",
    "load_upscaler",
    "open_slide",
    "upscale",
    "upscale_array",
]

_IMPORTED_FROM = {
    "CancelToken": "slidelift.service.pipeline.progress",
    "Cancelled": "slidelift.service.errors",
    "Client": "slidelift.service.client",
    "ClientError": "slidelift.service.client",
    "ModelError": "slidelift.models.errors",
    "Report": "slidelift.service.pipeline.report",
    "ServiceError": "slidelift.service.errors",
    "SlideError": "slidelift.wsi.errors",
    "SlideliftError": "slidelift.errors",
    "UpscaleRequest": "slidelift.service.pipeline.request",
    "WsiError": "slidelift.wsi.errors",
    "load_upscaler": "slidelift.models.upscaler",
    "open_slide": "slidelift.wsi.readers.open_slide",
}


def upscale(
    slide: str | Path,
    output: str | Path,
    *,
    model: str = "auto",
    effort: str = "balanced",
    target_mpp: float | None = None,
    mpp: float | None = None,
    level: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    roi: str | Path | Mapping[str, Any] | None = None,
    entropy: float | None = None,
    quality: int = 90,
    on_bad_tile: str = "fail",
    device: str = "auto",
    scheduler: str | None = None,
    on_progress: "Callable[[Progress], None] | None" = None,
    cancel: "CancelToken | None" = None,
) -> "Report":
    """Upscale a whole-slide image into a pyramid.

    The output appears under its name only when it is complete and has been read back. A call that was interrupted
    continues when it is repeated.

    Parameters
    ----------
    slide
        Path of the slide.
    output
        Path of the result, which ends in ``.ome.tiff``, ``.ome.tif`` or ``.ome.zarr``.
    model
        A model of the catalog (``slidelift models``), a file of weights (.safetensors, .pth, .pt), or "auto" for the
        recommended model.
    effort
        "fast", "balanced" or "best": which model "auto" prefers.
    target_mpp
        µm per pixel of the result. By default the source level's divided by the model's scale.
    mpp
        µm per pixel of level 0, for a slide that does not state it or states it wrongly.
    level
        Pyramid level to upscale. By default the level that `target_mpp` needs, or 0.
    region
        (x, y, width, height) in pixels of level 0. By default the whole slide.
    roi
        Region of interest: a GeoJSON file, or GeoJSON as a dict, with polygons in pixels of level 0.
    entropy
        Least Shannon entropy in bits (0 to 8) of a patch that counts as tissue; 0 upscales every patch.
    quality
        JPEG quality of an OME-TIFF, 1 to 100.
    on_bad_tile
        "fail", or "mark" to replace tiles that can't be decoded and to list them in the report.
    device
        "auto", "cpu", "cuda" or "cuda:N".
    scheduler
        Address of a Dask scheduler whose workers upscale the slide.
    on_progress
        Called with a `Progress` after each batch.
    cancel
        Token that stops the call from another thread.

    Returns
    -------
    Report
        What was done, with which model, and how near the result is to its source (docs/reference.md); `as_dict` gives
        the JSON values.

    Raises
    ------
    SlideliftError
        `WsiError` for the slide or the output, `ModelError` for the model, `ServiceError` for the options and the
        cluster, `Cancelled` when `cancel` was set.
    OSError
        A file can't be read or written.

    See Also
    --------
    slidelift.service.pipeline.upscale.upscale : the same with an `UpscaleRequest`.
    """
    from slidelift.service.pipeline.options import BadTilePolicy, Effort
    from slidelift.service.pipeline.request import UpscaleRequest
    from slidelift.service.pipeline.upscale import upscale as upscale_request
    from slidelift.wsi.roi import Roi

    request = UpscaleRequest(
        Path(slide),
        Path(output),
        model=model,
        effort=Effort(effort),
        target_mpp=target_mpp,
        mpp=mpp,
        level=level,
        region=region,
        roi=None if roi is None else Roi.read(Path(roi)) if isinstance(roi, (str, Path)) else Roi.from_geojson(roi),
        entropy=entropy,
        quality=quality,
        on_bad_tile=BadTilePolicy(on_bad_tile),
        device=device,
        scheduler=scheduler,
    )
    return upscale_request(request, on_progress or (lambda _: None), cancel)


def upscale_array(
    rgb: "NDArray[np.uint8]", *, model: "str | Path | PatchUpscaler" = "compact-x4", device: str = "auto"
) -> "NDArray[np.uint8]":
    """Upscale an RGB image that is held in memory; it is computed tile by tile, as a slide is.

    Parameters
    ----------
    rgb
        uint8 (height, width, 3).
    model
        A model of the catalog, a file of weights, or what `load_upscaler` returned: load it once for many images.
    device
        "auto", "cpu", "cuda" or "cuda:N"; not used with a loaded model.

    Returns
    -------
    ndarray
        uint8 (scale * height, scale * width, 3).

    Raises
    ------
    ValueError
        The image has another type or shape, or no pixels.
    ModelError
        The model can't be loaded, or fails.
    """
    from slidelift.models.upscaler import load_upscaler
    from slidelift.service.pipeline.in_memory import upscale_in_memory

    upscaler = load_upscaler(str(model), device=device) if isinstance(model, (str, Path)) else model
    return upscale_in_memory(rgb, upscaler)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("slidelift")
    if name not in _IMPORTED_FROM:
        raise AttributeError(f"module 'slidelift' has no attribute {name!r}")
    return getattr(import_module(_IMPORTED_FROM[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
