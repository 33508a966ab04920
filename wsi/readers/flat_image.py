"""Reader for PNG, JPEG and BMP images: slides with one level, decoded as a whole."""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from slidelift.wsi.errors import SlideUnreadableError, TileReadError, UnsupportedPixelsError, library_message
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.icc import check_profile
from slidelift.wsi.readers.compression import read_compression
from slidelift.wsi.readers.orientation import UPRIGHT, is_valid, orientation_warning, to_upright
from slidelift.wsi.slide import Level, Pixels, SlideInfo

_SIGNATURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}
# 100 Mpx take 0.3 GB in memory, and 1.0 GB (JPEG) to 1.6 GB (PNG with transparency) while they are decoded (measured).
# That fits a machine of 8 GB beside a job.
MAX_PIXELS = 100_000_000
# A Huffman-coded JPEG takes at least one bit per block of 8x8 samples: under 820 pixels a byte for any subsampling.
_MAX_PIXELS_PER_BYTE = 1024
_EXIF_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error)
_EIGHT_BIT_MODES = {"RGB", "L", "P", "1", "RGBA", "LA"}


def accepts(path: Path) -> bool:
    """Whether the file starts with the signature of one of these formats."""
    with path.open("rb") as file:
        return file.read(4).startswith(tuple(_SIGNATURES))


class FlatImageReader:
    """Reader of one decoded image. Memory: 3 bytes per pixel, for at most `MAX_PIXELS`."""

    def __init__(self, path: Path, name: str) -> None:
        self._pixels, profile, messages = _decode(path, name)
        icc_profile, profile_warnings = check_profile(profile)
        height, width = self._pixels.shape[:2]
        self.info = SlideInfo(
            name=name,
            reader="pillow",
            levels=(Level(Size(width, height), 1.0),),
            mpp=None,  # the resolution of such files is meant for printing, and is no pixel size
            objective=None,
            vendor=None,
            icc_profile=icc_profile,
            warnings=(*messages, *profile_warnings),
            compression=read_compression(path),
        )

    def read_region(self, level: int, region: Region) -> Pixels:
        """See `SlideReader.read_region`."""
        if level != 0:
            raise TileReadError(self.info.name, level, region, "this image has one level, level 0")
        return self._pixels[region.y : region.bottom, region.x : region.right]

    def close(self) -> None:
        """Do nothing; no file is held open."""


def _decode(path: Path, name: str) -> tuple[Pixels, object, list[str]]:
    """Upright pixels (H, W, 3); the ICC profile, b"" if it is damaged, None if there is none; and warnings."""
    try:
        with _open(path) as image:
            _check_image(path, name, image)
            image.load()
            orientation, messages = _read_orientation(image)
            messages += _conversion_warnings(path, image)
            pixels = to_upright(np.asarray(_to_opaque_rgb(image)), orientation)
            # Pillow gives None for a damaged profile.
            profile = image.info["icc_profile"] or b"" if "icc_profile" in image.info else None
    except Image.DecompressionBombError as error:
        raise UnsupportedPixelsError(
            f"{name}: the image has more than {MAX_PIXELS // 10**6} megapixels and is not tiled; save it as a "
            "tiled, pyramidal TIFF first"
        ) from error
    except UnidentifiedImageError as error:
        raise SlideUnreadableError(
            f"{name}: its header is not that of a PNG, JPEG or BMP file that can be read; if it is of a rare "
            "kind, such as a JPEG of 12 bits, save it as a PNG of 8 bits; if it is damaged, copy it again"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        cause = library_message(error, path, name)
        raise SlideUnreadableError(f"{name}: the image can't be decoded ({cause}); copy it again") from error
    return pixels, profile, messages


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # raised at half of Pillow's own limit
        warnings.simplefilter("ignore", UserWarning)  # about damaged EXIF data, where Pillow looks for a resolution
        return Image.open(path, formats=tuple(_SIGNATURES.values()))


def _check_image(path: Path, name: str, image: Image.Image) -> None:
    """Raise if the image, of which only the header was read, is too large, truncated or not of 8 bits."""
    pixel_count = image.width * image.height
    if pixel_count > MAX_PIXELS:
        raise Image.DecompressionBombError
    if image.format == "JPEG" and pixel_count > _MAX_PIXELS_PER_BYTE * path.stat().st_size:
        raise SlideUnreadableError(
            f"{name}: the file is cut short: it is too small for {image.width}x{image.height} px; copy it again"
        )
    if image.mode not in _EIGHT_BIT_MODES:
        raise UnsupportedPixelsError(
            f"{name}: pixel mode {image.mode} is not 8-bit RGB or grey; convert the image first"
        )


def _to_opaque_rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"RGBA", "LA"} or "transparency" in image.info:
        overlay = image.convert("RGBA")
        canvas = Image.new("RGBA", overlay.size, "white")
        canvas.alpha_composite(overlay)
        image = canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _read_orientation(image: Image.Image) -> tuple[int, list[str]]:
    """EXIF orientation, and warnings; upright if the EXIF data give no valid one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about other entries of damaged EXIF data
            value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except _EXIF_DAMAGE:
        return UPRIGHT, ["the EXIF data are damaged, so the orientation is unknown; the image is shown as stored"]
    if not is_valid(value):
        return UPRIGHT, ["the EXIF tag Orientation has an invalid value; the image is shown as stored"]
    return int(value), [] if value == UPRIGHT else [orientation_warning(int(value))]


def _conversion_warnings(path: Path, image: Image.Image) -> list[str]:
    messages = []
    with path.open("rb") as file:
        header = file.read(26)
    if header.startswith(b"\x89PNG") and header[24:25] == b"\x10":
        messages.append("16-bit samples were converted to 8 bits")
    if image.mode in {"RGBA", "LA"} or "transparency" in image.info:
        messages.append("transparent pixels were put on a white background")
    if (frames := getattr(image, "n_frames", 1)) > 1:
        messages.append(f"only the first image of the file is read; it holds {frames - 1} more")
    return messages
