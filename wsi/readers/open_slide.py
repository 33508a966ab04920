"""Any slide by its path: the one table of readers.

The first reader whose `accepts` knows the file opens it, and what that one then says is final: a damaged
slide is never handed to a more lenient decoder. Which files it may open is settled before a decoder sees its path.
"""

from collections.abc import Callable
from pathlib import Path

from slidelift.wsi.companions import companion_files, series_of_folder
from slidelift.wsi.errors import SlideUnreadableError
from slidelift.wsi.readers import flat_image, openslide, tiffslide
from slidelift.wsi.readers.decode_limits import check_tile_sizes, mrxs_tiles
from slidelift.wsi.readers.references import require_alone
from slidelift.wsi.readers.tiff_structure import require_complete_tiff
from slidelift.wsi.slide import SlideReader

READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], SlideReader]], ...] = (
    (openslide.accepts, openslide.OpenSlideReader),
    (tiffslide.accepts, tiffslide.TiffSlideReader),
    (flat_image.accepts, flat_image.FlatImageReader),
)


def open_slide(path: Path) -> SlideReader:
    """Open a slide.

    Parameters
    ----------
    path
        Its file, or a folder that holds one DICOM slide.

    Raises
    ------
    SlideUnreadableError
        There is no such file, no reader knows it, or the one that does can't open it.
    ForeignFileError
        It leads to a file that is not its own: elsewhere, or through a link.
    UnsupportedPixelsError
        It holds other pixels than 8-bit RGB or grey.
    """
    if not path.exists():
        raise SlideUnreadableError(f"{path}: no such file")
    if path.is_dir():
        path = series_of_folder(path)[0]
    if not path.is_file():
        raise SlideUnreadableError(f"{path}: not a regular file; pass the slide's file")
    if path.stat().st_size == 0:
        raise SlideUnreadableError(f"{path.name}: the file is empty; copy it again")
    companion_files(path)
    require_complete_tiff(path)
    require_alone(path)
    if path.suffix.lower() == ".mrxs":
        check_tile_sizes(path.name, mrxs_tiles(path))
    for accepts, reader in READERS:
        if accepts(path):
            return reader(path)
    raise SlideUnreadableError(
        f"{path.name}: not a slide or picture that can be read (OpenSlide's formats, TIFF, PNG, JPEG, BMP); if it is "
        "one, it is damaged, or files that belong to it are missing"
    )
