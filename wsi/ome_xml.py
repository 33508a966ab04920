"""OME-XML 2016-06: pixel size, objective, channels, provenance.

Physical sizes carry no unit, which by the schema means µm, and no character entity may occur: Bio-Formats rejects
`&#181;m` and then shows a plain TIFF without its pyramid.
"""

from dataclasses import dataclass
from xml.etree import ElementTree

from slidelift.wsi.geometry import Size
from slidelift.wsi.metadata_values import is_positive

_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA = f"{_NAMESPACE} {_NAMESPACE}/ome.xsd"
_PROVENANCE = "slidelift/provenance"


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What the metadata of a result says.

    Attributes
    ----------
    sizes
        Of all levels, finest first.
    mpp
        µm per pixel of the finest, along x and y.
    objective
        Magnification to show, None where the scan's is unknown.
    annotations
        Provenance, as names and values.

    Raises
    ------
    ValueError
        A number is not one that OME-XML can hold: told here, before the work, and not by what reads the result.
    """

    uuid: str
    name: str
    software: str
    description: str
    sizes: tuple[Size, ...]
    mpp: tuple[float, float]
    objective: float | None
    annotations: tuple[tuple[str, str], ...]
    icc_profile: bytes | None

    def __post_init__(self) -> None:
        numbers = (*self.mpp, *(() if self.objective is None else (self.objective,)))
        if not self.sizes or not all(is_positive(number) and float(f"{number:g}") > 0 for number in numbers):
            raise ValueError(f"OME-XML can't hold {len(self.sizes)} levels, {self.mpp} µm, objective {self.objective}")


def interleaved_xml(facts: ImageMetadata) -> str:
    """For OME-TIFF: one RGB channel of three interleaved samples, pixels in IFD 0."""
    root, pixels = _document(facts, interleaved=True)
    ElementTree.SubElement(pixels, "Channel", {"ID": "Channel:0:0", "SamplesPerPixel": "3"})
    ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": "1"})
    return _serialise(root)


def planar_xml(facts: ImageMetadata) -> str:
    """For OME-Zarr's ``OME/METADATA.ome.xml``: three channels, named and coloured so that QuPath sees RGB."""
    root, pixels = _document(facts, interleaved=False)
    for index, (name, colour) in enumerate((("Red", -16776961), ("Green", 16711935), ("Blue", 65535))):
        ElementTree.SubElement(
            pixels,
            "Channel",
            {"ID": f"Channel:0:{index}", "Name": name, "Color": str(colour), "SamplesPerPixel": "1"},
        )
    ElementTree.SubElement(pixels, "MetadataOnly")
    return _serialise(root)


def _document(facts: ImageMetadata, *, interleaved: bool) -> tuple[ElementTree.Element, ElementTree.Element]:
    root = ElementTree.Element(
        "OME",
        {
            "xmlns": _NAMESPACE,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": _SCHEMA,
            "UUID": f"urn:uuid:{facts.uuid}",
            "Creator": facts.software,
        },
    )
    if facts.objective is not None:
        instrument = ElementTree.SubElement(root, "Instrument", {"ID": "Instrument:0"})
        ElementTree.SubElement(
            instrument, "Objective", {"ID": "Objective:0:0", "NominalMagnification": f"{facts.objective:g}"}
        )
    image = ElementTree.SubElement(root, "Image", {"ID": "Image:0", "Name": facts.name})
    ElementTree.SubElement(image, "Description").text = facts.description
    if facts.objective is not None:
        ElementTree.SubElement(image, "InstrumentRef", {"ID": "Instrument:0"})
        ElementTree.SubElement(image, "ObjectiveSettings", {"ID": "Objective:0:0"})
    pixels = ElementTree.SubElement(
        image,
        "Pixels",
        {
            "ID": "Pixels:0",
            "DimensionOrder": "XYCZT",
            "Type": "uint8",
            "SignificantBits": "8",
            "SizeX": str(facts.sizes[0].width),
            "SizeY": str(facts.sizes[0].height),
            "SizeC": "3",
            "SizeZ": "1",
            "SizeT": "1",
            "PhysicalSizeX": f"{facts.mpp[0]:.10g}",
            "PhysicalSizeY": f"{facts.mpp[1]:.10g}",
            **({"Interleaved": "true"} if interleaved else {}),
        },
    )
    ElementTree.SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
    annotations = ElementTree.SubElement(root, "StructuredAnnotations")
    annotation = ElementTree.SubElement(annotations, "MapAnnotation", {"ID": "Annotation:0", "Namespace": _PROVENANCE})
    value = ElementTree.SubElement(annotation, "Value")
    for key, text in facts.annotations:
        ElementTree.SubElement(value, "M", {"K": key}).text = text
    return root, pixels


def _serialise(root: ElementTree.Element) -> str:
    text = '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")
    if "&#" in text:
        raise ValueError("the OME-XML holds a character entity, with which QuPath would not see the pyramid")
    return text
