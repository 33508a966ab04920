"""Table of output formats."""

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
    """Functions that encode tiles and write files of one format.

    Attributes
    ----------
    encoder
        ``encoder(quality)`` returns a function from a tile, uint8 (512, 512, 3), to its encoded parts.
    decode
        Inverse of the encoder.
    write
        ``write(target, levels, metadata, quality, check_cancelled)`` writes the file and flushes it to disk. A format
        of many files calls ``check_cancelled`` after each flushed file; it may raise to stop.
    stored_parts
        ``stored_parts(entry, quality)`` returns what `write` stores of an entry, as (part number, bytes) pairs.
    open_stored
        ``open_stored(path)`` is a context manager whose function reads stored bytes by level, row, column and part.
    """

    name: str
    suffixes: tuple[str, ...]
    encoder: Callable[[int], Callable[[Pixels], Sequence[bytes]]]
    decode: Callable[[Sequence[bytes]], Pixels]
    write: Callable[[Path, Iterable[Iterable[Entry]], ImageMetadata, int, Callable[[], None]], None]
    stored_parts: Callable[[Entry, int], list[tuple[int, bytes]]]
    open_stored: Callable[[Path], AbstractContextManager[Callable[[int, int, int, int], bytes]]]


FORMATS = (
    OutputFormat(
        ome_tiff.NAME,
        ome_tiff.SUFFIXES,
        ome_tiff.encoder,
        ome_tiff.decode,
        ome_tiff.write,
        ome_tiff.stored_parts,
        ome_tiff.open_stored,
    ),
    OutputFormat(
        ome_zarr.NAME,
        ome_zarr.SUFFIXES,
        ome_zarr.encoder,
        ome_zarr.decode,
        ome_zarr.write,
        ome_zarr.stored_parts,
        ome_zarr.open_stored,
    ),
)


def get_format(name: str) -> OutputFormat:
    """Return the format with this name; raises KeyError for an unknown name."""
    return {output_format.name: output_format for output_format in FORMATS}[name]


def format_for(output: Path) -> OutputFormat:
    """Return the format that the suffix of an output path names.

    Raises
    ------
    OutputFormatError
        No format has this suffix; the message lists the suffixes.
    """
    for output_format in FORMATS:
        if output.name.lower().endswith(output_format.suffixes):
            return output_format
    suffixes = ", ".join(suffix for output_format in FORMATS for suffix in output_format.suffixes)
    raise OutputFormatError(f"{output.name}: the output's name must end in one of {suffixes}")
