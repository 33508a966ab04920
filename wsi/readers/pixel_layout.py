"""How a TIFF stores its samples: which of them OpenSlide shows as they are, and what others mean in RGB.

libtiff's RGBA interface, on which OpenSlide rests, makes something of nearly any layout without a word: 16 bits are
cut to 8, five channels become grey, alpha is guessed, and of a turned picture each tile is turned by itself. So the
tags are looked at before either reader is trusted, whatever vendor the file names.

Source: TIFF 6.0, sections 8 (tags), 18 (associated alpha) and 21 (YCbCr).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import numpy as np
import tifffile
from numpy.typing import NDArray

from slidelift.wsi.geometry import Size
from slidelift.wsi.readers.orientation import UPRIGHT, is_known, orientation_warning
from slidelift.wsi.slide import Pixels

_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_CHANNELS = {_MINISWHITE: 1, _MINISBLACK: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3}
_JPEG = {6, 7}
_APERIO_JPEG_2000 = {33003, 33005}
_UNKNOWN_TO_OPENSLIDE = {34712, 34925, 50000, 50001, 50002, 52546}
"""JPEG 2000, LZMA, Zstandard, WebP, JPEG XL."""
_CODES_COLOUR = {33003, 34712, 50001, 50002, 52546}
"""Codecs with a colour transform of their own, so that YCbCr in the tags may mean RGB or not."""
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2
_EXTRA = {
    _RGB: {(_UNSPECIFIED,), (_ASSOCIATED,), (_UNASSOCIATED,)},
    _MINISBLACK: {(_ASSOCIATED,), (_UNASSOCIATED,)},  # two grey samples are two channels
}
_UNCOMPRESSED, _READ_BLOCK = 1, 1024
"""OpenSlide's libtiff (4.0.1) refuses uncompressed tiles whose bytes are no multiple of the block."""
_ORIENTATION, _COLOUR_MAP, _COEFFICIENTS, _SUBSAMPLING, _REFERENCES = 274, 320, 529, 530, 532
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_LUMA = (0.299, 0.587, 0.114)
_MOST_PAGES = 1000


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """What the tags of one page say.

    Attributes
    ----------
    kind
        NumPy's name of a sample's type; "" where the tags name none.
    extra
        Meaning of each sample beyond the colour's own (0 unspecified, 1 and 2 alpha).
    fills_blocks
        False where tiles are uncompressed and end within a block of bytes in which OpenSlide's libtiff reads.
    palette
        (256, 3) colours, or None.
    ranges
        Of YCbCr: what stands for black and white in each channel, and the share of red, green and blue in luma.
    """

    bits: int
    kind: str
    count: int
    extra: tuple[int, ...]
    photometric: int
    compression: int
    is_planar: bool
    is_subsampled: bool
    orientation: int
    fills_blocks: bool = True
    palette: Pixels | None = None
    ranges: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def turn(self) -> int:
        """The orientation; upright where the tag has a value without a meaning, as if it were not there."""
        return self.orientation if is_known(self.orientation) else UPRIGHT

    def is_shown_by_openslide(self, vendor: str) -> bool:
        """Whether OpenSlide, which calls the format so, hands out these samples as they are."""
        if (self.is_bytes, self.extra, self.is_planar, self.turn, self.fills_blocks) != (
            True,
            (),
            False,
            UPRIGHT,
            True,
        ):
            return False
        known = _APERIO_JPEG_2000 if vendor == "aperio" else set()
        if self.compression in _UNKNOWN_TO_OPENSLIDE | _APERIO_JPEG_2000 and self.compression not in known:
            return False
        if self.photometric == _YCBCR:
            return self.count == 3 and self.compression in _JPEG | _APERIO_JPEG_2000
        return self.count == {_RGB: 3, _MINISBLACK: 1}.get(self.photometric)

    @property
    def is_bytes(self) -> bool:
        """Whether a sample is an unsigned number of 8 bits, as it is stored."""
        return self.kind == "uint8" and self.bits == 8

    @property
    def is_convertible(self) -> bool:
        """Whether `rgb` knows what they mean, as tifffile decodes them."""
        colours = _CHANNELS.get(self.photometric)
        if not self.is_bytes or colours is None or self.count != colours + len(self.extra):
            return False
        if self.extra and (self.compression in _JPEG or self.extra not in _EXTRA.get(self.photometric, ())):
            return False
        if self.photometric == _YCBCR:
            lossless = not self.is_subsampled and self.compression not in _CODES_COLOUR and self.ranges is not None
            return not self.is_planar if self.compression in _JPEG else lossless
        return self.compression != 33003 and (self.photometric != _PALETTE or self.palette is not None)

    @property
    def words(self) -> str:
        """For messages."""
        shown = {member.value: member.name for member in tifffile.PHOTOMETRIC}.get(self.photometric, "unknown colours")
        codec = {member.value: member.name for member in tifffile.COMPRESSION}.get(self.compression, "unknown")
        parts = [
            f"{self.count} x {self.bits}-bit samples ({self.kind or 'of no known type'})",
            shown,
            f"{codec} compression",
        ]
        parts += [f"{len(self.extra)} of them beyond the colour"] if self.extra else []
        parts += ["chroma subsampled"] if self.is_subsampled else []
        parts += ["in separate planes"] if self.is_planar else []
        parts += [] if self.fills_blocks else ["in tiles of an odd number of bytes"]
        parts += [f"stored turned (Orientation {self.orientation})"] if self.orientation != UPRIGHT else []
        return ", ".join(parts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was done with them that users have to know."""
        found = []
        if not is_known(self.orientation):
            found.append("the tag Orientation has a value without a meaning; the slide is shown as it is stored")
        elif self.orientation != UPRIGHT:
            found.append(orientation_warning(self.orientation))
        if self.extra == (_UNSPECIFIED,):
            found.append("each pixel has a further sample whose meaning the file does not say; it was left out")
        elif self.extra:
            found.append("transparent pixels were laid on white")
        return tuple(found)

    def rgb(self, pixels: NDArray[np.uint8]) -> Pixels:
        """(rows, columns, samples) as tifffile decodes them -> (rows, columns, 3)."""
        if self.photometric == _PALETTE and self.palette is not None:
            return self.palette[pixels[..., 0]]
        if self.photometric == _YCBCR and self.compression not in _JPEG and self.ranges is not None:
            return _from_ycbcr(pixels, *self.ranges)
        colours = _CHANNELS[self.photometric]
        shown = 255 - pixels if self.photometric == _MINISWHITE else pixels[..., :colours]
        if self.extra and self.extra[0] in (_ASSOCIATED, _UNASSOCIATED):
            shown = _on_white(shown, pixels[..., colours:], premultiplied=self.extra[0] == _ASSOCIATED)
        return np.repeat(shown, 3, axis=2) if colours == 1 else shown


def read_pixel_layout(page: tifffile.TiffPage) -> PixelLayout:
    """What the tags of a page say; damaged tags raise one of `DAMAGE` of the readers."""
    count, photometric = int(page.samplesperpixel), int(page.photometric)
    extra = tuple(int(one) for one in page.extrasamples)
    if not extra and count == _CHANNELS.get(photometric, count) + 1:
        extra = (_UNSPECIFIED,)
    return PixelLayout(
        bits=int(np.max(page.bitspersample)),
        kind=str(page.dtype) if page.dtype is not None else "",
        count=count,
        extra=extra,
        photometric=photometric,
        compression=int(page.compression),
        is_planar=int(page.planarconfig) == 2 and count > 1,
        is_subsampled=photometric == _YCBCR and _values(page, _SUBSAMPLING, (2, 2)) != (1, 1),
        orientation=_values(page, _ORIENTATION, (UPRIGHT,))[0],
        fills_blocks=_fills_blocks(page),
        palette=_palette(page) if photometric == _PALETTE else None,
        ranges=_ranges(page) if photometric == _YCBCR and int(page.compression) not in _JPEG else None,
    )


def _fills_blocks(page: tifffile.TiffPage) -> bool:
    if not page.is_tiled or int(page.compression) != _UNCOMPRESSED or page.dtype is None:
        return True
    length: int = math.prod(page.chunks) * page.dtype.itemsize
    return length % _READ_BLOCK == 0


def level_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """The pages that OpenSlide may take levels from: those in tiles, or the largest where none is."""
    pages = [page for page in islice(tiff.pages, _MOST_PAGES) if isinstance(page, tifffile.TiffPage)]
    tiled = [page for page in pages if page.is_tiled]
    yield from tiled or [max(pages, key=lambda page: page_size(page).width * page_size(page).height)]


def page_size(page: tifffile.TiffPage) -> Size:
    """Of the page; TypeError or ValueError where a damaged tag holds no number."""
    return Size(int(page.imagewidth), int(page.imagelength))


def unread_planes_warning(count: int) -> str:
    """What users are told of pages beside the one that is read."""
    return f"{count} further planes of the same size (focal planes, time points or channels) are not read"


def _values(page: tifffile.TiffPage, code: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = page.tags.valueof(code, default)
    return tuple(int(one) for one in (value if isinstance(value, Iterable) else (value,)))


def _palette(page: tifffile.TiffPage) -> Pixels | None:
    """The colour map's upper bytes; None where it is not one of 256 colours."""
    colours = np.asarray(page.tags.valueof(_COLOUR_MAP, ()))
    if colours.size != 3 * 256:
        return None
    eight_bit = colours.max() < 256  # as some writers have it, against the specification
    return (colours.reshape(3, 256).T >> (0 if eight_bit else 8)).astype(np.uint8)


def _ranges(page: tifffile.TiffPage) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """None where they can't be true."""
    try:
        references = _fractions(page.tags.valueof(_REFERENCES), _FULL_RANGE)
        luma = _fractions(page.tags.valueof(_COEFFICIENTS), _LUMA)
        spans = [white - black for black, white in zip(references[::2], references[1::2], strict=True)]
        possible = (
            (len(references), len(luma)) == (6, 3) and min(*spans, *luma) > 0 and max(*references, sum(luma)) <= 256
        )
    except (ArithmeticError, TypeError, ValueError):
        return None
    return (references, luma) if possible else None


def _fractions(said: object, default: tuple[float, ...]) -> tuple[float, ...]:
    """Of a tag of fractions, which tifffile gives as numerator, denominator, numerator and so on."""
    if not isinstance(said, tuple):
        return default
    return tuple(float(Fraction(*pair)) for pair in zip(said[::2], said[1::2], strict=True))


def _from_ycbcr(pixels: Pixels, references: tuple[float, ...], luma: tuple[float, ...]) -> Pixels:
    """TIFF 6.0, section 21: each channel from its range, then the inverse of the luma's sum."""
    black, white = np.array(references[::2]), np.array(references[1::2])
    y, blue, red = np.moveaxis((pixels - black) / (white - black) * (255.0, 127.0, 127.0), -1, 0)
    r = y + red * (2 - 2 * luma[0])
    b = y + blue * (2 - 2 * luma[2])
    g = (y - luma[0] * r - luma[2] * b) / luma[1]
    return np.stack([r, g, b], axis=-1).round().clip(0, 255).astype(np.uint8)


def _on_white(shown: Pixels, alpha: Pixels, *, premultiplied: bool) -> Pixels:
    share = alpha.astype(np.float32) / 255
    ink = shown.astype(np.float32) * (1 if premultiplied else share)
    return (ink + 255 * (1 - share)).round().clip(0, 255).astype(np.uint8)
