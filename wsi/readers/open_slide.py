"""Any slide by its path: the one table of readers.

The first reader whose `accepts` knows the file opens it, and what that one then says is final: a damaged
slide is never handed to a more lenient decoder.
"""

from collections.abc import Callable
from pathlib import Path

from wsi.errors import SlideUnreadableError
from wsi.readers import flat_image, openslide, tiffslide
from wsi.slide import SlideReader

READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], SlideReader]], ...] = (
    (openslide.accepts, openslide.OpenSlideReader),
    (tiffslide.accepts, tiffslide.TiffSlideReader),
    (flat_image.accepts, flat_image.FlatImageReader),
)


def open_slide(path: Path) -> SlideReader:
    """Open a slide.

    Raises
    ------
    SlideUnreadableError
        There is no such file, no reader knows it, or the one that does can't open it.
    UnsupportedPixelsError
        It holds other pixels than 8-bit RGB or grey.
    """
    if not path.exists():
        raise SlideUnreadableError(f"{path}: no such file")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise SlideUnreadableError(f"{path}: {kind}; pass the slide's file")
    if path.stat().st_size == 0:
        raise SlideUnreadableError(f"{path.name}: the file is empty; copy it again")
    for accepts, reader in READERS:
        if accepts(path):
            return reader(path)
    raise SlideUnreadableError(
        f"{path.name}: not a slide or picture that can be read (OpenSlide's formats, TIFF, PNG, JPEG, BMP); if it is "
        "one, it is damaged, or files that belong to it are missing"
    )
