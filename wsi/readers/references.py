"""Keeps a TIFF to itself: no word in it makes a library open another file.

OME-XML may say that planes lie in other files (`UUID FileName`), or that the metadata do (`BinaryOnly`); tifffile
follows the first, and the lists of Micro-Manager (`NDTiff.index`, `_MMStack`) too. Here none is followed. What names
another file is refused before it is opened, and tifffile gets a handle that shows it no folder.

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
    """A file for tifffile, which looks for others only beside what has a descriptor and a name."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def fileno(self) -> int:
        """See `io.IOBase.fileno`; there is none."""
        raise io.UnsupportedOperation("fileno")

    @property
    def name(self) -> str:
        """Nothing that says where the file lies."""
        raise AttributeError("name")


def options_for(path: Path) -> dict[str, str | bool]:
    """Make what `tifffile.TiffFile` needs to know beside a `LoneFile`."""
    return {"name": path.name, "_multifile": False}


def require_alone(path: Path, name: str) -> None:
    """Refuse an OME-TIFF whose XML leads to another file, which is not opened.

    Raises
    ------
    ForeignFileError
        With the name that stands in it.
    """
    with path.open("rb") as file:
        if file.read(4) not in _SIGNATURES:
            return
    for named in _foreign_names(path):
        raise ForeignFileError(
            f"{name}: its OME-XML says that pixels or metadata lie {named}; a slide's file may not lead to "
            "others: export the slide as one OME-TIFF that holds all of it"
        )


def _foreign_names(path: Path) -> Iterator[str]:
    try:
        with LoneFile(path) as file, tifffile.TiffFile(file, **options_for(path)) as tiff:
            root = ElementTree.fromstring(tiff.ome_metadata) if tiff.is_ome else None  # noqa: S314 - no entities
    except (*_DAMAGE, ElementTree.ParseError):
        return  # a reader says what is wrong with a damaged file
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
