"""A slide whose words or samples are odd gives a result, or is refused before the work; never after it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale
from slidelift.wsi.errors import PixelSizeMissingError
from slidelift.wsi.geometry import Region


def write_ome(path: Path, pixels: np.ndarray, mpp: str, power: str) -> Path:
    height, width = pixels.shape[:2]
    words = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Instrument ID="I"><Objective ID="O" NominalMagnification="{power}"/></Instrument>'
        '<Image ID="Image:0"><ObjectiveSettings ID="O"/><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1" Interleaved="true" '
        f'PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}"><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), description=words.encode(), metadata=None)
    return path


@pytest.mark.parametrize(
    ("power", "magnification"),
    [
        ("NaN", None),
        ("INF", None),
        ("0", None),
        ("-20", None),
        ("1e300", None),
        ("true", None),
        ("20x", 80.0),
        ("0.1", 0.4),
    ],
)
@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_an_odd_objective_costs_no_result(tmp_path, formula_pixels, power: str, magnification, suffix: str) -> None:
    slide = write_ome(tmp_path / "slide.ome.tif", formula_pixels(Region(0, 0, 96, 64)), "0.5", power)
    output = tmp_path / f"out{suffix}"
    report = upscale(UpscaleRequest(slide, output, model="bicubic"))
    assert output.exists()
    assert report.output.magnification == magnification
    assert any("NominalMagnification" in warning for warning in report.warnings) == (power != "0.1")
    json.dumps(report.as_dict(), allow_nan=False)


@pytest.mark.parametrize("mpp", ["NaN", "INF", "0", "-1", "1,234", "true"])
def test_an_odd_pixel_size_is_asked_for_before_the_work(tmp_path, formula_pixels, mpp: str) -> None:
    slide = write_ome(tmp_path / "slide.ome.tif", formula_pixels(Region(0, 0, 96, 64)), mpp, "20")
    with pytest.raises(PixelSizeMissingError, match="--mpp"):
        upscale(UpscaleRequest(slide, tmp_path / "out.ome.tif", model="bicubic"))
    report = upscale(UpscaleRequest(slide, tmp_path / "out.ome.tif", model="bicubic", mpp=0.5))
    assert report.output.mpp == (0.125, 0.125)


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_a_result_of_a_turned_slide_is_upright(tmp_path, formula_pixels, kind: str) -> None:
    seen = formula_pixels(Region(0, 0, 96, 64))
    lying = np.ascontiguousarray(np.rot90(seen))  # what is turned by 90 degrees clockwise to be seen
    path, output = tmp_path / f"slide.{kind}", tmp_path / "out.ome.zarr"
    if kind == "tif":
        tifffile.imwrite(path, lying, photometric="rgb", metadata=None, extratags=[(274, "H", 1, 6, True)])
    else:
        exif = Image.Exif()
        exif[274] = 6
        stream = io.BytesIO()
        Image.fromarray(lying).save(stream, "PNG", exif=exif)
        path.write_bytes(stream.getvalue())
    report = upscale(UpscaleRequest(path, output, model="nearest", mpp=1.0, target_mpp=1.0, entropy=0))
    planes = np.asarray(zarr.open_group(str(output), mode="r", zarr_format=2)["0"][:])
    assert (np.moveaxis(planes, 0, -1) == seen).all()
    assert any("Orientation 6" in warning for warning in report.warnings)
