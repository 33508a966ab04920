"""Prevents a TIFF from making a library open another file.

OME-XML can refer to other files for planes (`UUID FileName`) or for metadata (`BinaryOnly`). tifffile opens the former,
and the files listed by Micro-Manager (`NDTiff.index`, `_MMStack`). A TIFF with such a reference is refused before the
other file is opened, and tifffile gets a handle that does not reveal the folder.

https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from slidelift.wsi.errors import ForeignFileError

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DAMAGE = (tifffile.TiffFileError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError,
           ValueError, struct.error)  # fmt: skip


class LoneFile(io.BufferedReader):
    """File for tifffile without a descriptor and a name, so that tifffile looks for no other files beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def fileno(self) -> int:
        """Raise UnsupportedOperation."""
        raise io.UnsupportedOperation("fileno")

    @property
    def name(self) -> str:
        """Raise AttributeError."""
        raise AttributeError("name")


def options_for(path: Path) -> dict[str, str | bool]:
    """Return the options of `tifffile.TiffFile` for a `LoneFile`."""
    return {"name": path.name, "_multifile": False}


def require_alone(path: Path, name: str) -> None:
    """Refuse an OME-TIFF whose XML refers to another file; that file is not opened.

    Parameters
    ----------
    name
        Name of the slide in messages.

    Raises
    ------
    ForeignFileError
        The message contains the reference.
    """
    with path.open("rb") as file:
        if file.read(4) not in _SIGNATURES:
            return
    for reference in _foreign_references(path):
        raise ForeignFileError(
            f"{name}: its OME-XML says that pixels or metadata are {reference}; a slide must not refer to other files: "
            "export it as one OME-TIFF that contains everything"
        )


def _foreign_references(path: Path) -> Iterator[str]:
    try:
        with LoneFile(path) as file, tifffile.TiffFile(file, **options_for(path)) as tiff:
            root = ElementTree.fromstring(tiff.ome_metadata) if tiff.is_ome else None  # noqa: S314 - no entities
    except (*_DAMAGE, ElementTree.ParseError):
        return  # the reader reports damaged files
    if root is None:
        return
    own = root.get("UUID")
    for element in root.iter():
        kind, children = element.tag.rpartition("}")[2], list(element)
        if kind == "BinaryOnly":
            yield f"in {element.get('MetadataFile', 'another file')!r}"
        elif kind == "Pixels" and any(child.tag.endswith("BinData") for child in children):
            yield "in the XML itself (BinData)"
        elif kind.endswith("TiffData"):
            for uuid in (child for child in children if child.tag.endswith("UUID") and not _is_own(child, own, path)):
                yield f"in {uuid.get('FileName', 'another file')!r}"


def _is_own(uuid: ElementTree.Element, own: str | None, path: Path) -> bool:
    if own is not None:
        return uuid.text == own
    return uuid.get("FileName", "").lower() == path.name.lower()
