"""The files of one slide: which ones a file may lead to, and never any further.

A MRXS file stands beside a folder of its name, whose Slidedat.ini names the rest; a VMS or VMU file names pictures
beside it; a DICOM slide is the files of one folder that share a SeriesInstanceUID. Decoders open whatever such a file
names. So a name must be bare, and what it names must lie in the same folder as a file of its own, not as a link.
"""

import hashlib
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from slidelift.wsi.dicom import Instance, is_dicom, read_instance
from slidelift.wsi.errors import ForeignFileError, SlideUnreadableError

_INDEX_MAX_BYTES = 2**20
"""Decoders refuse longer ones; so a name can't be hidden behind the part that is looked at."""

_MRXS_KEY = re.compile(r"FILE_\d+|INDEXFILE", re.IGNORECASE)
_VMS_KEY = re.compile(r"\w*File\w*(?:\(.*?\))?|MacroImage", re.IGNORECASE)
_VMS_GROUP = re.compile(r"^\s*\[(?:Uncompressed )?Virtual Microscope Specimen\]", re.MULTILINE)


def companion_files(path: Path) -> list[Path]:
    """List the files of a slide: the named one, and those that its format spreads it over.

    Parameters
    ----------
    path
        The slide's main file, or the folder of a DICOM series.

    Raises
    ------
    ForeignFileError
        It leads to a file that is not its own: elsewhere, or through a link.
    SlideUnreadableError
        A folder that does not hold just one DICOM slide.
    """
    if path.is_dir():
        return series_of_folder(path)
    if path.suffix.lower() == ".mrxs":
        return [path, *_of_mrxs(path)]
    if is_dicom(path):
        return _of_dicom(path)
    if is_key_file(path):
        return [path, *_named(path, vms_names(path), path.parent)]
    for name in (f"{path.stem}.Full", f"{path.name}-journal", f"{path.name}-wal"):  # Trestle's map, Sakura's database
        _require_own(path, path.with_name(name), name)
    return [path]


def content_hash(path: Path) -> str:
    """SHA-256 of a slide's bytes, in hex; of its files' hashes where there are several.

    These stand in the order of the files' names. Names mean nothing in a DICOM series, which is hashed as a set.
    """
    files, hashes = companion_files(path), []
    for file in files:
        with file.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").digest())
    if is_dicom(files[0]):
        hashes = sorted(set(hashes))
    return hashes[0].hex() if len(hashes) == 1 else hashlib.sha256(b"".join(hashes)).hexdigest()


def mrxs_index(main: Path) -> Path:
    """Where the names of a MRXS slide's files stand."""
    return main.with_suffix("") / "Slidedat.ini"


def mrxs_names(index: Path) -> list[str]:
    """What a Slidedat.ini names, whether it is there or not; raises ForeignFileError for a name that is not bare."""
    return _bare(index, (value for key, value in entries(index) if _MRXS_KEY.fullmatch(key)))


def vms_names(index: Path) -> list[str]:
    """What a VMS or VMU file names; raises ForeignFileError for a name that is not bare."""
    return _bare(index, (value for key, value in entries(index) if _VMS_KEY.fullmatch(key)))


def entries(index: Path) -> list[tuple[str, str]]:
    """Keys and values of a file in the form of a Slidedat.ini, groups aside."""
    with index.open("rb") as file:
        data = file.read(_INDEX_MAX_BYTES + 1)
    if len(data) > _INDEX_MAX_BYTES:
        raise SlideUnreadableError(f"{index.name}: longer than any list of a slide's files; copy the slide again")
    lines = (line.partition("=") for line in _text(data).split("\n"))
    return [(key.strip(), value.strip()) for key, equals, value in lines if equals]


def is_key_file(path: Path) -> bool:
    """Whether decoders take it for a VMS or VMU file, which they know by its words and not by its suffix."""
    if path.stat().st_size > _INDEX_MAX_BYTES:
        return False
    return _VMS_GROUP.search(_text(path.read_bytes())) is not None


def series_of_folder(folder: Path) -> list[Path]:
    """List the files of the one DICOM slide of a folder, the largest first: it holds the finest level.

    Raises
    ------
    SlideUnreadableError
        There is none, or several.
    ForeignFileError
        A link lies among them.
    """
    found = slides_in(_regular_files(folder))
    if not found:
        raise SlideUnreadableError(f"{folder}: a folder without a DICOM slide; pass the slide's file")
    if len(found) > 1:
        firsts = ", ".join(sorted(files[0].name for files in found.values())[:5])
        raise SlideUnreadableError(
            f"{folder}: a folder with {len(found)} DICOM slides; pass a file of the one that is meant: {firsts}"
        )
    return next(iter(found.values()))


def slides_in(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Sort the files that are levels of DICOM slides by their SeriesInstanceUID, the largest of each first."""
    found: dict[str, list[Path]] = {}
    for file in files:
        instance = read_instance(file)
        if instance is not None and instance.is_slide:
            found.setdefault(instance.series, []).append(file)
    return {series: sorted(one, key=lambda file: (-file.stat().st_size, file.name)) for series, one in found.items()}


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", errors="surrogateescape")


def _of_dicom(path: Path) -> list[Path]:
    main = read_instance(path)
    if main is None:
        raise SlideUnreadableError(
            f"{path.name}: its head does not say which DICOM series it belongs to; export it again"
        )
    others = (file for file in _regular_files(path.parent) if file.name != path.name)
    return [path, *(file for file in others if _is_of(main, read_instance(file)))]


def _is_of(main: Instance, other: Instance | None) -> bool:
    return other is not None and other.is_slide and other.series == main.series


def _regular_files(folder: Path) -> list[Path]:
    """A folder's files in the order of names; raises ForeignFileError where decoders would follow or wait for one."""
    found = []
    for file in sorted(folder.iterdir()):
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode):
            found.append(file)
        elif not stat.S_ISDIR(mode) and not file.is_dir():
            kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
            raise ForeignFileError(
                f"{file.name}: it lies in the folder of a DICOM slide and is {kind}, which is not followed; put the "
                "slide's own files into a folder of their own"
            )
    return found


def _of_mrxs(main: Path) -> list[Path]:
    folder, index = main.with_suffix(""), mrxs_index(main)
    _require_own(main, folder, folder.name)
    if not folder.is_dir():
        return []  # a reader says what is missing
    files = sorted(file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir())
    for file in files:
        _require_own(main, file, f"{folder.name}/{file.relative_to(folder)}")
    if index.is_file():
        mrxs_names(index)
    return files


def _named(index: Path, names: Iterable[str], folder: Path) -> list[Path]:
    files = [folder / name for name in names if name != index.name]
    for file in files:
        _require_own(index, file, file.name)
    return [file for file in files if file.exists()]  # a reader says what is missing


def _bare(index: Path, names: Iterable[str]) -> list[str]:
    found = sorted({name for name in names if name})
    for name in found:
        if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
            raise ForeignFileError(
                f"{index.name} names a file elsewhere: {name[:80]!r}; a slide's files lie in one folder and are "
                "named without a path: copy or export the slide again, whole"
            )
    return found


def _require_own(main: Path, file: Path, said: str) -> None:
    """Raise ForeignFileError where a companion is a link, or nothing that can be read like a file or folder."""
    if not file.is_symlink() and (file.is_file() or file.is_dir() or not file.exists()):
        return
    raise ForeignFileError(
        f"{main.name}: {said}, which belongs to it, is a link or no regular file; that is not followed: copy the "
        "slide's own files into one folder"
    )
