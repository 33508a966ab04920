"""Opens slides of any format: the table of readers.

The first reader whose `accepts` returns True for a file opens it, and its refusal is final: a damaged slide is never
handed to a more lenient decoder. Which files a slide may refer to is checked before a decoder gets its path.
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

READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path, str], SlideReader]], ...] = (
    (openslide.accepts, openslide.OpenSlideReader),
    (tiffslide.accepts, tiffslide.TiffSlideReader),
    (flat_image.accepts, flat_image.FlatImageReader),
)


def open_slide(path: str | Path, name: str | None = None) -> SlideReader:
    """Open a slide.

    Parameters
    ----------
    path
        Its file, or a folder that holds one DICOM slide.
    name
        The user's name of the slide, for messages; None for the name of the file. Messages never contain
        the path if a name is given.

    Raises
    ------
    SlideUnreadableError
        There is no such file, no reader accepts it, or the reader that does can't open it.
    ForeignFileError
        The slide refers to a file in another folder, or to a link.
    UnsupportedPixelsError
        Its pixels are not 8-bit RGB or grey.
    """
    path = Path(path)
    if not path.exists():
        raise SlideUnreadableError(f"{name or path}: no such file")
    if path.is_dir():
        path = series_of_folder(path, name)[0]
    if not path.is_file():
        raise SlideUnreadableError(f"{name or path}: not a regular file; pass the slide's file")
    name = name or path.name
    if path.stat().st_size == 0:
        raise SlideUnreadableError(f"{name}: the file is empty; copy it again")
    companion_files(path, name)
    require_complete_tiff(path, name)
    require_alone(path, name)
    if path.suffix.lower() == ".mrxs":
        check_tile_sizes(name, mrxs_tiles(path))
    for accepts, reader in READERS:
        if accepts(path):
            return reader(path, name)
    raise SlideUnreadableError(
        f"{name}: not a slide or image that can be read (OpenSlide's formats, TIFF, PNG, JPEG, BMP); if it is one, it "
        "is damaged, or files that belong to it are missing"
    )
