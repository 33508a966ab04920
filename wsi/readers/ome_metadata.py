"""Pixel size and objective of an image from its OME-XML.

Source: OME schema 2016-06. A physical size without a unit is in µm; ObjectiveSettings name the objective of an image.
"""

import math
import re
from typing import NamedTuple
from xml.etree import ElementTree

import tifffile

from slidelift.wsi.geometry import Size
from slidelift.wsi.metadata_values import MetadataParser

_OME = "{*}"
_UNITS = {
    "km": 1e9, "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3,
    "pm": 1e-6, "fm": 1e-9, "\u00c5": 1e-4, "\u212b": 1e-4, "in": 25_400.0, "ft": 304_800.0, "yd": 914_400.0,
    "thou": 25.4, "li": 25_400.0 / 12, "pt": 25_400.0 / 72,
}  # fmt: skip
_COUNT_ATTRIBUTES = {
    "Pixels": ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT"),
    "Channel": ("SamplesPerPixel",),
    "TiffData": ("IFD", "PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT"),
}
_MAX_PLANES = 100_000
_HEADER_CHARACTERS = 4096
MALFORMED_OME_XML = "its OME-XML is malformed; neither the pixel size nor the objective is read from it"


class SeriesPosition(NamedTuple):
    """Index of a series in its file, and the number of series there."""

    number: int
    total: int


def starts_with_ome_xml(tiff: tifffile.TiffFile) -> bool:
    """Whether the description starts as OME-XML; `tifffile.TiffFile.is_ome` also requires that it ends as OME-XML."""
    return "<OME" in tiff.pages.first.description[:_HEADER_CHARACTERS]


def find_invalid_count(xml: str) -> str | None:
    """Name of a count in the XML that no file can have; None if all are valid.

    tifffile makes a list of as many planes as the XML declares, so such a count takes memory without bound.
    """
    root = _parse(xml)
    for element in root.iter() if root is not None else ():
        tag = element.tag.rpartition("}")[2]
        names = _COUNT_ATTRIBUTES.get(tag, ())
        for name in names:
            value = element.get(name)
            if value is not None and not re.fullmatch(r"\s*\+?\d{1,9}\s*", value, re.ASCII):
                return name
        planes = [int(element.get(name, "1")) for name in names if name not in ("SizeX", "SizeY")]
        if max(planes, default=0) > _MAX_PLANES:
            return f"the number of planes in {tag}"
        if tag == "Pixels" and math.prod(max(count, 1) for count in planes) > _MAX_PLANES:
            return f"the number of planes in {tag}"
    return None


def parse_ome_metadata(
    xml: str, series: SeriesPosition, size: Size, parser: MetadataParser
) -> tuple[tuple[float, float] | None, float | None]:
    """Pixel size along x and y in µm, and magnification, of one series; None if unknown.

    Parameters
    ----------
    size
        Size of the series' finest level, which identifies its Image element.
    """
    root = _parse(xml)
    if root is None:
        parser.warn(MALFORMED_OME_XML)
        return None, None
    image = _find_image(root, series, size)
    pixels = image.find(f"{_OME}Pixels") if image is not None else None
    if image is None or pixels is None:
        parser.warn("its OME-XML does not describe the image that is read; pixel size and objective are unknown")
        return None, None
    x, y = (
        parser.pixel_size(
            pixels.get(f"PhysicalSize{axis}"),
            f"PhysicalSize{axis}",
            _UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "um")),
        )
        for axis in "XY"
    )
    return parser.pixel_size_xy(x, y), _objective(root, image, parser)


def _parse(xml: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(xml)  # noqa: S314 - expat expands no external entities
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None


def _find_image(root: ElementTree.Element, series: SeriesPosition, size: Size) -> ElementTree.Element | None:
    """The Image with the series' index if the file has a series for each Image, else the only one with that size."""
    images = root.findall(f"{_OME}Image")
    matching = [image for image in images if _image_size(image) == (size.width, size.height)]
    if len(images) == series.total and images[series.number] in matching:
        return images[series.number]
    return matching[0] if len(matching) == 1 else None


def _image_size(image: ElementTree.Element) -> tuple[int, int] | None:
    pixels = image.find(f"{_OME}Pixels")
    if pixels is None:
        return None
    try:
        return int(pixels.get("SizeX", "")), int(pixels.get("SizeY", ""))
    except ValueError:
        return None


def _objective(root: ElementTree.Element, image: ElementTree.Element, parser: MetadataParser) -> float | None:
    objectives = root.findall(f".//{_OME}Instrument/{_OME}Objective")
    settings = image.find(f"{_OME}ObjectiveSettings")
    if settings is not None:
        objectives = [objective for objective in objectives if objective.get("ID") == settings.get("ID")]
    if len(objectives) == 1:
        return parser.magnification(objectives[0].get("NominalMagnification"), "NominalMagnification")
    if settings is not None:
        parser.warn("ObjectiveSettings name an objective that the file does not describe; it is taken as unknown")
    elif objectives:
        parser.warn(
            f"the file lists {len(objectives)} objectives without saying which one was used; it is taken as unknown"
        )
    return None
