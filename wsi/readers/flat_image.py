"""PNG, JPEG and BMP pictures as slides of one level, decoded whole."""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from slidelift.wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError, library_message
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.icc import usable_profile
from slidelift.wsi.readers.compression import read_compression
from slidelift.wsi.readers.orientation import UPRIGHT, is_known, turned_warning, upright
from slidelift.wsi.slide import Level, Pixels, SlideInfo

_SIGNATURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
# A picture is held whole in memory: 100 Mpx are 0.3 GB, and while they are decoded 1.0 GB (JPEG) to 1.6 GB (PNG with
# transparency), measured. A machine of 8 GB has room for that beside a job. Larger slides come tiled.
MAX_PIXELS = 100_000_000
# A Huffman-coded JPEG spends at least a bit on each block of 8x8 samples: under 820 pixels a byte, however it samples.
_MOST_PIXELS_A_BYTE = 1024
_EXIF_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error)
_EIGHT_BIT = {"RGB", "L", "P", "1", "RGBA", "LA"}


def accepts(path: Path) -> bool:
    """Whether the file begins as one of these formats does."""
    with path.open("rb") as file:
        return file.read(4).startswith(tuple(_SIGNATURES))


class FlatImageReader:
    """A picture in memory: 3 bytes a pixel, at most `MAX_PIXELS`."""

    def __init__(self, path: Path, name: str) -> None:
        try:
            with _opened(path) as image:
                size, mode = Size(*image.size), image.mode
                if size.width * size.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if image.format == "JPEG" and size.width * size.height > _MOST_PIXELS_A_BYTE * path.stat().st_size:
                    raise SlideUnreadableError(
                        f"{name}: {size.width}x{size.height} px can't be in so few bytes; it is cut short: copy "
                        "it again"
                    )
                if mode not in _EIGHT_BIT:
                    raise UnsupportedPixelsError(
                        f"{name}: pixel mode {mode} is not 8-bit RGB or grey; convert it first"
                    )
                image.load()
                orientation, found = _orientation(image)
                found += _warnings(path, image)
                self._pixels = upright(np.asarray(_opaque(image)), orientation)
                # A damaged profile is None in a picture that has one.
                said = image.info.get("icc_profile") or b"" if "icc_profile" in image.info else None
        except Image.DecompressionBombError as error:
            raise UnsupportedPixelsError(
                f"{name}: more than {MAX_PIXELS // 10**6} megapixels in one piece; save it as a tiled, pyramidal "
                "TIFF first"
            ) from error
        except UnidentifiedImageError as error:
            raise SlideUnreadableError(
                f"{name}: its head is none of a PNG, JPEG or BMP that can be read; it may be of a rare kind, as "
                "a JPEG of 12 bits is (save it as a PNG of 8 bits), or cut short (copy it again)"
            ) from error
        except (OSError, ValueError, SyntaxError) as error:
            cause = library_message(error, path, name)
            raise SlideUnreadableError(f"{name}: the picture can't be decoded ({cause}); copy it again") from error
        profile, damage = usable_profile(said)
        height, width = self._pixels.shape[:2]
        self.info = SlideInfo(
            name=name,
            reader="pillow",
            levels=(Level(Size(width, height), 1.0),),
            mpp=None,  # a picture's dots per inch are a wish for printers, not a pixel size
            objective=None,
            vendor=None,
            icc_profile=profile,
            warnings=(*found, *damage),
            compression=read_compression(path),
        )

    def read(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read`."""
        if level != 0:
            raise TileReadError(self.info.name, level, region, "a picture has one level")
        return self._pixels[region.y : region.bottom, region.x : region.right]

    def close(self) -> None:
        """Nothing is held open."""


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # half of what it refuses
        warnings.simplefilter("ignore", UserWarning)  # of damaged EXIF data, in which a JPEG's resolution is looked for
        return Image.open(path, formats=tuple(_SIGNATURES.values()))


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode in {"RGBA", "LA"} or "transparency" in image.info:
        overlay = image.convert("RGBA")
        canvas = Image.new("RGBA", overlay.size, "white")
        canvas.alpha_composite(overlay)
        image = canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> tuple[int, list[str]]:
    """As its EXIF says, upright where that says nothing that has a meaning; and what has to be told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of other entries of damaged EXIF data
            said = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except _EXIF_DAMAGE:
        return UPRIGHT, ["its EXIF data can't be read; whether it is stored turned is unknown"]
    if not is_known(said):
        return UPRIGHT, ["its EXIF data name a turn that has no meaning; it is shown as it is stored"]
    return int(said), [] if said == UPRIGHT else [turned_warning(int(said))]


def _warnings(path: Path, image: Image.Image) -> list[str]:
    found = []
    with path.open("rb") as file:
        header = file.read(26)
    if header.startswith(b"\x89PNG") and header[24:25] == b"\x10":
        found.append("16-bit samples were converted to 8 bits")
    if image.mode in {"RGBA", "LA"} or "transparency" in image.info:
        found.append("transparent pixels were laid on white")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        found.append(f"the first picture is read; the file holds {frames - 1} more, which are not")
    return found
