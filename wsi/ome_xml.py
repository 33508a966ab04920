"""OME-XML 2016-06 of a result: pixel size, objective, channels, provenance.

Physical sizes are written without a unit, which means µm in the schema, because no character entity may occur:
Bio-Formats rejects `&#181;m` and then shows a plain TIFF without its pyramid.
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
    """Metadata of a result.

    Attributes
    ----------
    sizes
        Sizes of all levels, finest first.
    mpp
        µm per pixel of the finest level, along x and y.
    objective
        Magnification of the result; None if that of the scan is unknown.
    annotations
        Provenance, as names and values.

    Raises
    ------
    ValueError
        OME-XML can't hold one of the numbers; checked here, so that it is found before the pixels are computed.
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


def interleaved_xml(metadata: ImageMetadata) -> str:
    """OME-XML of an OME-TIFF: one channel of three interleaved RGB samples, with the pixels in IFD 0."""
    root, pixels = _document(metadata, interleaved=True)
    ElementTree.SubElement(pixels, "Channel", {"ID": "Channel:0:0", "SamplesPerPixel": "3"})
    ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": "1"})
    return _serialise(root)


def planar_xml(metadata: ImageMetadata) -> str:
    """``OME/METADATA.ome.xml`` of an OME-Zarr: three channels with the names and colours that QuPath takes for RGB."""
    root, pixels = _document(metadata, interleaved=False)
    for index, (name, colour) in enumerate((("Red", -16776961), ("Green", 16711935), ("Blue", 65535))):
        ElementTree.SubElement(
            pixels,
            "Channel",
            {"ID": f"Channel:0:{index}", "Name": name, "Color": str(colour), "SamplesPerPixel": "1"},
        )
    ElementTree.SubElement(pixels, "MetadataOnly")
    return _serialise(root)


def _document(metadata: ImageMetadata, *, interleaved: bool) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The root element, and its Pixels element without channels; the schema fixes the order of elements."""
    root = ElementTree.Element(
        "OME",
        {
            "xmlns": _NAMESPACE,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": _SCHEMA,
            "UUID": f"urn:uuid:{metadata.uuid}",
            "Creator": metadata.software,
        },
    )
    if metadata.objective is not None:
        instrument = ElementTree.SubElement(root, "Instrument", {"ID": "Instrument:0"})
        ElementTree.SubElement(
            instrument, "Objective", {"ID": "Objective:0:0", "NominalMagnification": f"{metadata.objective:g}"}
        )
    image = ElementTree.SubElement(root, "Image", {"ID": "Image:0", "Name": metadata.name})
    ElementTree.SubElement(image, "Description").text = metadata.description
    if metadata.objective is not None:
        ElementTree.SubElement(image, "InstrumentRef", {"ID": "Instrument:0"})
        ElementTree.SubElement(image, "ObjectiveSettings", {"ID": "Objective:0:0"})
    pixels = ElementTree.SubElement(image, "Pixels", _pixels_attributes(metadata, interleaved=interleaved))
    ElementTree.SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
    _add_annotations(root, metadata)
    return root, pixels


def _pixels_attributes(metadata: ImageMetadata, *, interleaved: bool) -> dict[str, str]:
    return {
        "ID": "Pixels:0",
        "DimensionOrder": "XYCZT",
        "Type": "uint8",
        "SignificantBits": "8",
        "SizeX": str(metadata.sizes[0].width),
        "SizeY": str(metadata.sizes[0].height),
        "SizeC": "3",
        "SizeZ": "1",
        "SizeT": "1",
        "PhysicalSizeX": f"{metadata.mpp[0]:.10g}",
        "PhysicalSizeY": f"{metadata.mpp[1]:.10g}",
        **({"Interleaved": "true"} if interleaved else {}),
    }


def _add_annotations(root: ElementTree.Element, metadata: ImageMetadata) -> None:
    annotations = ElementTree.SubElement(root, "StructuredAnnotations")
    annotation = ElementTree.SubElement(annotations, "MapAnnotation", {"ID": "Annotation:0", "Namespace": _PROVENANCE})
    value = ElementTree.SubElement(annotation, "Value")
    for key, text in metadata.annotations:
        ElementTree.SubElement(value, "M", {"K": key}).text = text


def _serialise(root: ElementTree.Element) -> str:
    text = '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")
    if "&#" in text:
        raise ValueError("the OME-XML holds a character entity, with which QuPath does not find the pyramid")
    return text
