"""The one table of output formats."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from slidelift.wsi.errors import OutputFormatError
from slidelift.wsi.ome_xml import ImageMetadata
from slidelift.wsi.slide import Pixels
from slidelift.wsi.writers import ome_tiff, ome_zarr
from slidelift.wsi.writers.segment import Entry


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """How one format encodes a tile and joins tiles to a file.

    Attributes
    ----------
    encoder
        ``encoder(quality)`` is a function from uint8 (512, 512, 3) to the tile's encoded parts.
    decode
        Its inverse.
    join
        ``join(target, levels, facts, quality, between)`` writes the file and flushes it to disk; it calls ``between``
        again and again while it flushes many files, which may raise to stop.
    parts
        ``parts(entry, quality)`` is what `join` stores of an entry: numbers of parts with their bytes.
    stored
        ``stored(path)`` lends a function of level, row, column and part that reads those bytes back.
    """

    name: str
    suffixes: tuple[str, ...]
    encoder: Callable[[int], Callable[[Pixels], Sequence[bytes]]]
    decode: Callable[[Sequence[bytes]], Pixels]
    join: Callable[[Path, Iterable[Iterable[Entry]], ImageMetadata, int, Callable[[], None]], None]
    parts: Callable[[Entry, int], list[tuple[int, bytes]]]
    stored: Callable[[Path], AbstractContextManager[Callable[[int, int, int, int], bytes]]]


FORMATS = (
    OutputFormat(
        ome_tiff.NAME,
        ome_tiff.SUFFIXES,
        ome_tiff.encoder,
        ome_tiff.decode,
        ome_tiff.join,
        ome_tiff.parts,
        ome_tiff.stored,
    ),
    OutputFormat(
        ome_zarr.NAME,
        ome_zarr.SUFFIXES,
        ome_zarr.encoder,
        ome_zarr.decode,
        ome_zarr.join,
        ome_zarr.parts,
        ome_zarr.stored,
    ),
)


def get_format(name: str) -> OutputFormat:
    """The format of that name; KeyError if there is none."""
    return {known.name: known for known in FORMATS}[name]


def format_for(output: Path) -> OutputFormat:
    """The format that an output's suffix names.

    Raises
    ------
    OutputFormatError
        None does; the message lists those that exist.
    """
    for known in FORMATS:
        if output.name.lower().endswith(known.suffixes):
            return known
    offered = ", ".join(suffix for known in FORMATS for suffix in known.suffixes)
    raise OutputFormatError(f"{output.name}: the output's name must end in one of {offered}")
