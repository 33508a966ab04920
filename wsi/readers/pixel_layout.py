"""How a TIFF page stores its samples: whether OpenSlide decodes them faithfully, and how to convert them to RGB.

libtiff's RGBA interface, which OpenSlide uses, converts nearly any layout without an error: it cuts 16 bits to 8, turns
five channels into grey, guesses alpha, and rotates each tile of a rotated image by itself. So the tags are checked
before either reader is used, whatever vendor the file names.

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
from slidelift.wsi.readers.orientation import UPRIGHT, is_valid, orientation_warning
from slidelift.wsi.slide import Pixels

_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_COLOUR_SAMPLES = {_MINISWHITE: 1, _MINISBLACK: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3}
_JPEG = {6, 7}
_APERIO_JPEG_2000 = {33003, 33005}
_APERIO_JPEG_2000_YCBCR = 33003
_UNSUPPORTED_BY_OPENSLIDE = {34712, 34925, 50000, 50001, 50002, 52546}
"""JPEG 2000, LZMA, Zstandard, WebP, JPEG XL."""
_WITH_COLOUR_TRANSFORM = {33003, 34712, 50001, 50002, 52546}
"""Codecs with a colour transform of their own, for which the tag YCbCr does not show whether they decode to RGB."""
_UNSPECIFIED, _ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 0, 1, 2
_SUPPORTED_EXTRA_SAMPLES = {
    _RGB: {(_UNSPECIFIED,), (_ASSOCIATED_ALPHA,), (_UNASSOCIATED_ALPHA,)},
    _MINISBLACK: {(_ASSOCIATED_ALPHA,), (_UNASSOCIATED_ALPHA,)},  # two unspecified grey samples are two channels
}
_UNCOMPRESSED, _READ_BLOCK = 1, 1024
"""OpenSlide's libtiff (4.0.1) refuses uncompressed tiles whose size is not a multiple of this number of bytes."""
_ORIENTATION, _COLOR_MAP, _YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 274, 320, 529, 530, 532
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_BT601_LUMA = (0.299, 0.587, 0.114)
_MAX_PAGES = 1000


@dataclass(frozen=True, slots=True)
class YCbCrCoding:
    """TIFF tags ReferenceBlackWhite (black and white of each channel) and YCbCrCoefficients (luma of R, G and B)."""

    references: tuple[float, ...]
    luma: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """Tags of one page that determine what its samples mean.

    Attributes
    ----------
    dtype
        NumPy name of the sample type; "" if the tags have an unknown type.
    extra_samples
        Meaning of each sample beyond those of the colour (0 unspecified, 1 and 2 alpha).
    fills_read_blocks
        False if OpenSlide's libtiff refuses the tiles because of their size in bytes.
    colour_map
        (256, 3) colours of a palette image, or None.
    ycbcr
        None if the page is not YCbCr, is decoded by the JPEG codec, or has invalid tags.
    """

    bits_per_sample: int
    dtype: str
    samples_per_pixel: int
    extra_samples: tuple[int, ...]
    photometric: int
    compression: int
    is_planar: bool
    is_subsampled: bool
    orientation_tag: int
    fills_read_blocks: bool = True
    colour_map: Pixels | None = None
    ycbcr: YCbCrCoding | None = None

    @property
    def orientation(self) -> int:
        """The orientation; upright if the tag has an invalid value."""
        return self.orientation_tag if is_valid(self.orientation_tag) else UPRIGHT

    def is_shown_by_openslide(self, vendor: str) -> bool:
        """Whether OpenSlide decodes these samples faithfully in a file of this vendor."""
        if not self.is_uint8 or self.extra_samples or self.is_planar:
            return False
        if self.orientation != UPRIGHT or not self.fills_read_blocks:
            return False
        supported = _APERIO_JPEG_2000 if vendor == "aperio" else set()
        if self.compression in _UNSUPPORTED_BY_OPENSLIDE | _APERIO_JPEG_2000 and self.compression not in supported:
            return False
        if self.photometric == _YCBCR:
            return self.samples_per_pixel == 3 and self.compression in _JPEG | _APERIO_JPEG_2000
        return self.samples_per_pixel == {_RGB: 3, _MINISBLACK: 1}.get(self.photometric)

    @property
    def is_uint8(self) -> bool:
        """Whether samples are stored as unsigned 8-bit numbers."""
        return self.dtype == "uint8" and self.bits_per_sample == 8

    @property
    def is_convertible(self) -> bool:
        """Whether `to_rgb` can convert the samples as tifffile decodes them."""
        colours = _COLOUR_SAMPLES.get(self.photometric)
        if not self.is_uint8 or colours is None or self.samples_per_pixel != colours + len(self.extra_samples):
            return False
        if self.extra_samples:
            supported = _SUPPORTED_EXTRA_SAMPLES.get(self.photometric, ())
            if self.compression in _JPEG or self.extra_samples not in supported:
                return False
        if self.photometric == _YCBCR:
            if self.compression in _JPEG:
                return not self.is_planar
            return not self.is_subsampled and self.compression not in _WITH_COLOUR_TRANSFORM and self.ycbcr is not None
        if self.compression == _APERIO_JPEG_2000_YCBCR:
            return False
        return self.photometric != _PALETTE or self.colour_map is not None

    @property
    def description(self) -> str:
        """The layout for messages."""
        colours = {member.value: member.name for member in tifffile.PHOTOMETRIC}
        codecs = {member.value: member.name for member in tifffile.COMPRESSION}
        parts = [
            f"{self.samples_per_pixel} x {self.bits_per_sample}-bit samples ({self.dtype or 'unknown type'})",
            colours.get(self.photometric, "unknown colours"),
            f"{codecs.get(self.compression, 'unknown')} compression",
        ]
        parts += [f"{len(self.extra_samples)} extra samples"] if self.extra_samples else []
        parts += ["subsampled chroma"] if self.is_subsampled else []
        parts += ["separate planes"] if self.is_planar else []
        parts += [] if self.fills_read_blocks else ["tiles of an odd number of bytes"]
        parts += (
            [f"rotated or mirrored (Orientation {self.orientation_tag})"] if self.orientation_tag != UPRIGHT else []
        )
        return ", ".join(parts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Conversions that users have to know about."""
        messages = []
        if not is_valid(self.orientation_tag):
            messages.append("the tag Orientation has an invalid value; the slide is shown as stored")
        elif self.orientation_tag != UPRIGHT:
            messages.append(orientation_warning(self.orientation_tag))
        if self.extra_samples == (_UNSPECIFIED,):
            messages.append("each pixel has an extra sample of unspecified meaning, which is not read")
        elif self.extra_samples:
            messages.append("transparent pixels were put on a white background")
        return tuple(messages)

    def to_rgb(self, pixels: NDArray[np.uint8]) -> Pixels:
        """Convert samples as tifffile decodes them, (H, W, samples), to RGB, (H, W, 3)."""
        if self.photometric == _PALETTE and self.colour_map is not None:
            return self.colour_map[pixels[..., 0]]
        if self.photometric == _YCBCR and self.ycbcr is not None:
            return _ycbcr_to_rgb(pixels, self.ycbcr)
        colours = _COLOUR_SAMPLES[self.photometric]
        image = 255 - pixels if self.photometric == _MINISWHITE else pixels[..., :colours]
        if self.extra_samples and self.extra_samples[0] in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA):
            premultiplied = self.extra_samples[0] == _ASSOCIATED_ALPHA
            image = _blend_on_white(image, pixels[..., colours:], premultiplied=premultiplied)
        return np.repeat(image, 3, axis=2) if colours == 1 else image


def read_pixel_layout(page: tifffile.TiffPage) -> PixelLayout:
    """Read the layout from a page's tags; damaged tags raise one of `DECODER_ERRORS` of `tiffslide`."""
    samples, photometric, compression = int(page.samplesperpixel), int(page.photometric), int(page.compression)
    extra = tuple(int(meaning) for meaning in page.extrasamples)
    if not extra and samples == _COLOUR_SAMPLES.get(photometric, samples) + 1:
        extra = (_UNSPECIFIED,)
    return PixelLayout(
        bits_per_sample=int(np.max(page.bitspersample)),
        dtype=str(page.dtype) if page.dtype is not None else "",
        samples_per_pixel=samples,
        extra_samples=extra,
        photometric=photometric,
        compression=compression,
        is_planar=int(page.planarconfig) == 2 and samples > 1,
        is_subsampled=photometric == _YCBCR and _integers(page, _YCBCR_SUBSAMPLING, (2, 2)) != (1, 1),
        orientation_tag=_integers(page, _ORIENTATION, (UPRIGHT,))[0],
        fills_read_blocks=_fills_read_blocks(page),
        colour_map=_colour_map(page) if photometric == _PALETTE else None,
        ycbcr=_ycbcr_coding(page) if photometric == _YCBCR and compression not in _JPEG else None,
    )


def level_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Pages that OpenSlide may read as levels: the tiled ones, or the largest page if none is tiled."""
    pages = [page for page in islice(tiff.pages, _MAX_PAGES) if isinstance(page, tifffile.TiffPage)]
    tiled = [page for page in pages if page.is_tiled]
    yield from tiled or [max(pages, key=lambda page: page_size(page).width * page_size(page).height)]


def page_size(page: tifffile.TiffPage) -> Size:
    """Size of a page; raises TypeError or ValueError if a damaged tag holds no number."""
    return Size(int(page.imagewidth), int(page.imagelength))


def unread_planes_warning(count: int) -> str:
    """Warning about pages of the same size as the one that is read."""
    return f"{count} further planes of the same size (focal planes, time points or channels) are not read"


def _fills_read_blocks(page: tifffile.TiffPage) -> bool:
    if not page.is_tiled or int(page.compression) != _UNCOMPRESSED or page.dtype is None:
        return True
    length: int = math.prod(page.chunks) * page.dtype.itemsize
    return length % _READ_BLOCK == 0


def _integers(page: tifffile.TiffPage, code: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = page.tags.valueof(code, default)
    return tuple(int(number) for number in (value if isinstance(value, Iterable) else (value,)))


def _colour_map(page: tifffile.TiffPage) -> Pixels | None:
    """The upper 8 bits of the colour map, (256, 3); None if it does not have 256 colours."""
    colours = np.asarray(page.tags.valueof(_COLOR_MAP, ()))
    if colours.size != 3 * 256:
        return None
    eight_bit = colours.max() < 256  # some writers do so, against the specification
    return (colours.reshape(3, 256).T >> (0 if eight_bit else 8)).astype(np.uint8)


def _ycbcr_coding(page: tifffile.TiffPage) -> YCbCrCoding | None:
    """The page's YCbCr tags or their defaults; None if they are invalid."""
    try:
        references = _rationals(page.tags.valueof(_REFERENCE_BLACK_WHITE), _FULL_RANGE)
        luma = _rationals(page.tags.valueof(_YCBCR_COEFFICIENTS), _BT601_LUMA)
        ranges = [white - black for black, white in zip(references[::2], references[1::2], strict=True)]
        is_possible = (
            (len(references), len(luma)) == (6, 3) and min(*ranges, *luma) > 0 and max(*references, sum(luma)) <= 256
        )
    except (ArithmeticError, TypeError, ValueError):
        return None
    return YCbCrCoding(references, luma) if is_possible else None


def _rationals(value: object, default: tuple[float, ...]) -> tuple[float, ...]:
    """Numbers of a tag of type RATIONAL, which tifffile gives as numerator, denominator, numerator, and so on."""
    if not isinstance(value, tuple):
        return default
    return tuple(float(Fraction(*pair)) for pair in zip(value[::2], value[1::2], strict=True))


def _ycbcr_to_rgb(pixels: Pixels, coding: YCbCrCoding) -> Pixels:
    """TIFF 6.0, section 21: scale each channel from its reference range, then invert the definition of luma."""
    luma = coding.luma
    black, white = np.array(coding.references[::2]), np.array(coding.references[1::2])
    y, blue, red = np.moveaxis((pixels - black) / (white - black) * (255.0, 127.0, 127.0), -1, 0)
    r = y + red * (2 - 2 * luma[0])
    b = y + blue * (2 - 2 * luma[2])
    g = (y - luma[0] * r - luma[2] * b) / luma[1]
    return np.stack([r, g, b], axis=-1).round().clip(0, 255).astype(np.uint8)


def _blend_on_white(image: Pixels, alpha: Pixels, *, premultiplied: bool) -> Pixels:
    opacity = alpha.astype(np.float32) / 255
    colour = image.astype(np.float32) * (1 if premultiplied else opacity)
    return (colour + 255 * (1 - opacity)).round().clip(0, 255).astype(np.uint8)
