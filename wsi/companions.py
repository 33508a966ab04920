"""The files that belong to one slide, and checks that a slide refers to no others.

A MRXS file is beside a folder of the same name, whose Slidedat.ini lists the other files. A VMS or VMU file lists
images in its own folder. A DICOM slide consists of the files in one folder that share a SeriesInstanceUID. Decoders
open every listed file. Therefore a listed name must not contain a path, and a file must be in the slide's folder and
must not be a link.
"""

import hashlib
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from slidelift.wsi.dicom import Instance, is_dicom, read_instance
from slidelift.wsi.errors import ForeignFileError, SlideUnreadableError

_INDEX_MAX_BYTES = 2**20
"""Decoders refuse longer index files, so the checked part contains every name."""

_MRXS_KEY = re.compile(r"FILE_\d+|INDEXFILE", re.IGNORECASE)
_VMS_KEY = re.compile(r"\w*File\w*(?:\(.*?\))?|MacroImage", re.IGNORECASE)
_VMS_GROUP = re.compile(r"^\s*\[(?:Uncompressed )?Virtual Microscope Specimen\]", re.MULTILINE)


def companion_files(path: Path, name: str | None = None) -> list[Path]:
    """List the files of a slide: its main file first, then the others of formats with several files.

    Parameters
    ----------
    path
        The slide's main file, or the folder of a DICOM series.
    name
        Name of the slide in messages; None for the name of its file.

    Raises
    ------
    ForeignFileError
        The slide refers to a file in another folder, or to a link.
    SlideUnreadableError
        The folder does not contain exactly one DICOM slide.
    """
    if path.is_dir():
        return series_of_folder(path, name)
    name = name or path.name
    if path.suffix.lower() == ".mrxs":
        return [path, *_mrxs_files(path, name)]
    if is_dicom(path):
        return _dicom_files(path, name)
    if is_key_file(path):
        return [path, *_listed_files(path, vms_names(path, name), name)]
    for other in (f"{path.stem}.Full", f"{path.name}-journal", f"{path.name}-wal"):  # Trestle's map, Sakura's database
        _require_own(path.with_name(other), name, other)
    return [path]


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a slide in hex.

    For several files it is the hash of their concatenated hashes, in the order of `companion_files`. The names of DICOM
    files have no meaning, so their hashes are sorted instead, without duplicates.
    """
    files, hashes = companion_files(path), []
    for file in files:
        with file.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").digest())
    if is_dicom(files[0]):
        hashes = sorted(set(hashes))
    return hashes[0].hex() if len(hashes) == 1 else hashlib.sha256(b"".join(hashes)).hexdigest()


def mrxs_index(main: Path) -> Path:
    """Return the path of the list of a MRXS slide's files."""
    return main.with_suffix("") / "Slidedat.ini"


def mrxs_names(index: Path) -> list[str]:
    """List the files that a Slidedat.ini names, existing or not; raises ForeignFileError for a name with a path."""
    return _without_folders(index.name, (value for key, value in entries(index) if _MRXS_KEY.fullmatch(key)))


def vms_names(index: Path, name: str | None = None) -> list[str]:
    """List the files that a VMS or VMU file names; raises ForeignFileError for a name with a path."""
    values = (value for key, value in entries(index, name) if _VMS_KEY.fullmatch(key))
    return _without_folders(name or index.name, values)


def entries(index: Path, name: str | None = None) -> list[tuple[str, str]]:
    """List the keys and values of all groups of a file in the format of a Slidedat.ini."""
    with index.open("rb") as file:
        data = file.read(_INDEX_MAX_BYTES + 1)
    if len(data) > _INDEX_MAX_BYTES:
        raise SlideUnreadableError(
            f"{name or index.name}: too long for a list of a slide's files; copy the slide again"
        )
    lines = (line.partition("=") for line in _text(data).split("\n"))
    return [(key.strip(), value.strip()) for key, equals, value in lines if equals]


def is_key_file(path: Path) -> bool:
    """Whether decoders open the file as VMS or VMU; they recognise these by content, not by suffix."""
    if path.stat().st_size > _INDEX_MAX_BYTES:
        return False
    return _VMS_GROUP.search(_text(path.read_bytes())) is not None


def series_of_folder(folder: Path, name: str | None = None) -> list[Path]:
    """List the files of the only DICOM slide of a folder; the first is the largest and contains the finest level.

    Parameters
    ----------
    name
        Name of the slide in messages; None for the path of the folder.

    Raises
    ------
    SlideUnreadableError
        The folder contains no DICOM slide, or several.
    ForeignFileError
        The folder contains a link, or a file that is not a regular file.
    """
    slides = slides_in(_regular_files(folder))
    if not slides:
        raise SlideUnreadableError(f"{name or folder}: a folder without a DICOM slide; pass the slide's file")
    if len(slides) > 1:
        main_files = ", ".join(sorted(files[0].name for files in slides.values())[:5])
        raise SlideUnreadableError(
            f"{name or folder}: a folder with {len(slides)} DICOM slides; pass a file of one of them: {main_files}"
        )
    return next(iter(slides.values()))


def slides_in(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Group the files that contain levels of DICOM slides by SeriesInstanceUID; each group starts with the largest."""
    slides: dict[str, list[Path]] = {}
    for file in files:
        instance = read_instance(file)
        if instance is not None and instance.is_slide:
            slides.setdefault(instance.series, []).append(file)
    return {series: sorted(one, key=lambda file: (-file.stat().st_size, file.name)) for series, one in slides.items()}


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", errors="surrogateescape")


def _dicom_files(path: Path, name: str) -> list[Path]:
    main = read_instance(path)
    if main is None:
        raise SlideUnreadableError(f"{name}: its header contains no identifier of a DICOM series; export it again")
    others = (file for file in _regular_files(path.parent) if file.name != path.name)
    return [path, *(file for file in others if _is_in_series(main, read_instance(file)))]


def _is_in_series(main: Instance, other: Instance | None) -> bool:
    return other is not None and other.is_slide and other.series == main.series


def _regular_files(folder: Path) -> list[Path]:
    """List a folder's files by name; raise ForeignFileError for a link or pipe, which decoders would open."""
    files = []
    for file in sorted(folder.iterdir()):
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode):
            files.append(file)
        elif not stat.S_ISDIR(mode) and not file.is_dir():
            kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
            raise ForeignFileError(
                f"{file.name}: it is in the folder of a DICOM slide and is {kind}, which is not opened; put the "
                "slide's own files into a separate folder"
            )
    return files


def _mrxs_files(main: Path, name: str) -> list[Path]:
    folder, index = main.with_suffix(""), mrxs_index(main)
    _require_own(folder, name, folder.name)
    if not folder.is_dir():
        return []  # the reader reports missing files
    files = sorted(file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir())
    for file in files:
        _require_own(file, name, f"{folder.name}/{file.relative_to(folder)}")
    if index.is_file():
        mrxs_names(index)
    return files


def _listed_files(index: Path, names: Iterable[str], slide_name: str) -> list[Path]:
    files = [index.with_name(name) for name in names if name != index.name]
    for file in files:
        _require_own(file, slide_name, file.name)
    return [file for file in files if file.exists()]  # the reader reports missing files


def _without_folders(index_name: str, names: Iterable[str]) -> list[str]:
    """Return the names without duplicates, sorted; raise ForeignFileError for a name with a path."""
    unique = sorted({name for name in names if name})
    for name in unique:
        if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
            raise ForeignFileError(
                f"{index_name} names a file elsewhere: {name[:80]!r}; a slide's files lie in one folder and "
                "are named without a path: copy or export the whole slide again"
            )
    return unique


def _require_own(file: Path, slide_name: str, shown: str) -> None:
    """Raise ForeignFileError if a companion is a link, or neither a regular file nor a folder."""
    if not file.is_symlink() and (file.is_file() or file.is_dir() or not file.exists()):
        return
    raise ForeignFileError(
        f"{slide_name}: its file {shown} is a link or not a regular file, so it is not opened; copy the slide's own "
        "files into one folder"
    )
