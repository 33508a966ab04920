"""What an OME-XML says of the picture that is read: µm per pixel, objective; malformed XML says nothing.

Source: OME schema 2016-06. A size without a unit is in µm, and ObjectiveSettings name the objective of an image.
"""

import re
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
_COUNTS = {"Pixels": ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT"), "Channel": ("SamplesPerPixel",)}
_PLACES = ("IFD", "PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT")
_MOST_PLANES = 100_000
_HEAD = 4096
MALFORMED_OME_XML = "its OME-XML is malformed, so that neither µm per pixel nor the objective is taken from it"


def starts_with_ome_xml(tiff: tifffile.TiffFile) -> bool:
    """Whether the description begins as an OME-XML does; tifffile asks also that it ends as one."""
    return "<OME" in tiff.pages.first.description[:_HEAD]


def find_invalid_count(xml: str) -> str | None:
    """The name of a count that no file has, for which a decoder would take memory without bound; None if there is none.

    tifffile makes a list of as many planes as the XML announces.
    """
    root = _parsed(xml)
    for element in root.iter() if root is not None else ():
        tag = element.tag.rpartition("}")[2]
        names = _PLACES if tag == "TiffData" else _COUNTS.get(tag, ())
        for name in names:
            said = element.get(name)
            if said is not None and not re.fullmatch(r"\s*\+?\d{1,9}\s*", said, re.ASCII):
                return name
        planes = [int(element.get(name, "1")) for name in names if name not in ("SizeX", "SizeY")]
        if max(planes, default=0) > _MOST_PLANES or (tag == "Pixels" and _product(planes) > _MOST_PLANES):
            return f"the number of planes in {tag}"
    return None


def parse_ome_metadata(
    xml: str, place: tuple[int, int], size: Size, quantities: MetadataParser
) -> tuple[tuple[float, float] | None, float | None]:
    """µm per pixel and magnification of one image.

    Parameters
    ----------
    place
        Which of the file's pictures it is, and how many there are.
    size
        Of its finest level, by which its image in the XML is recognised.
    """
    root = _parsed(xml)
    if root is None:
        quantities.warn(MALFORMED_OME_XML)
        return None, None
    image = _image(root, place, size)
    pixels = image.find(f"{_OME}Pixels") if image is not None else None
    if image is None or pixels is None:
        quantities.warn("its OME-XML does not describe the picture that is read; nothing is taken from it")
        return None, None
    x, y = (
        quantities.micrometres(
            pixels.get(f"PhysicalSize{axis}"),
            f"PhysicalSize{axis}",
            _UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "um")),
        )
        for axis in "XY"
    )
    return quantities.pair(x, y), _objective(root, image, quantities)


def _parsed(xml: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(xml)  # noqa: S314 - expat expands no external entities
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None


def _image(root: ElementTree.Element, place: tuple[int, int], size: Size) -> ElementTree.Element | None:
    """By its place where all images have pixels in the file, else by its size if only one has that."""
    images = root.findall(f"{_OME}Image")
    fitting = [image for image in images if _size(image) == (size.width, size.height)]
    if len(images) == place[1] and images[place[0]] in fitting:
        return images[place[0]]
    return fitting[0] if len(fitting) == 1 else None


def _size(image: ElementTree.Element) -> tuple[int, int] | None:
    pixels = image.find(f"{_OME}Pixels")
    if pixels is None:
        return None
    try:
        return int(pixels.get("SizeX", "")), int(pixels.get("SizeY", ""))
    except ValueError:
        return None


def _objective(root: ElementTree.Element, image: ElementTree.Element, quantities: MetadataParser) -> float | None:
    objectives = root.findall(f".//{_OME}Instrument/{_OME}Objective")
    settings = image.find(f"{_OME}ObjectiveSettings")
    if settings is not None:
        objectives = [one for one in objectives if one.get("ID") == settings.get("ID")]
    if len(objectives) == 1:
        return quantities.magnification(objectives[0].get("NominalMagnification"), "NominalMagnification")
    if settings is not None:
        quantities.warn("ObjectiveSettings name no objective of the file; the objective is taken as unknown")
    elif objectives:
        quantities.warn(
            f"the file has {len(objectives)} objectives and does not say which one was used; it is taken as unknown"
        )
    return None


def _product(numbers: list[int]) -> int:
    product = 1
    for number in numbers:
        product *= max(number, 1)
    return product
