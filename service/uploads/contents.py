"""Which slide a folder holds: found, checked for completeness, and given names that hold no word of a user's.

Formats of several files, as OpenSlide describes them: MRXS is a file beside a folder of its name, whose Slidedat.ini
names the rest; VMS and VMU name JPEGs and maps beside them; DICOM is a folder of instances of one series. Names inside
an index are taken only where they are bare file names, since decoders open whatever stands there.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from service.codes import refusal
from service.storage import remove
from service.uploads.names import MULTI_FILE_SUFFIXES, slide_suffix
from wsi.durable import sync_folder

_PICTURES = (".png", ".jpeg", ".jpg", ".jp2")
_INDEX_MAX_BYTES = 2**20
_MRXS_PART = re.compile(r"^\s*(?:FILE_\d+|INDEXFILE)\s*=\s*(.*?)\s*$", re.MULTILINE | re.IGNORECASE)
_VMS_PART = re.compile(r"^\s*(?:\w*File\w*(?:\(.*?\))?|MacroImage)\s*=\s*(.*?)\s*$", re.MULTILINE | re.IGNORECASE)
_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI(..)|(..)\x00\x00)", re.DOTALL)
_DICOM_HEAD_BYTES = 2**16


def settle_in(folder: Path) -> str:
    """Leave of a folder just the one slide that it holds, and say its main file's name in it.

    Raises
    ------
    ServiceError
        upload.bundle where it holds none or several, slide.multi-file where files of the slide are missing.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    indexes = [path for path in files if path.suffix.lower() in MULTI_FILE_SUFFIXES]
    dicoms = [path for path in files if path.suffix.lower() == ".dcm" or (not path.suffix and _is_dicom(path))]
    slides = [path for path in files if slide_suffix(path.name) not in ("", *_PICTURES) and path not in dicoms]
    pictures = [path for path in files if slide_suffix(path.name) in _PICTURES]
    if indexes:
        main = _only(indexes, folder)
        parts = _mrxs(main) if main.suffix.lower() == ".mrxs" else _vms(main)
    elif dicoms and not slides:
        parts = _dicom(dicoms, folder)
    elif slides or pictures or len(files) == 1:
        found = _only(slides or pictures or files, folder)
        parts = {"slide" + slide_suffix(found.name): found}
    else:
        raise refusal("upload.bundle", f"no slide is in it; found {_listed(files, folder)}")
    return _moved(parts, folder)


def _only(found: list[Path], folder: Path) -> Path:
    if len(found) > 1:
        raise refusal("upload.bundle", f"one slide was expected, found {_listed(found, folder)}; send each by itself")
    return found[0]


def _mrxs(main: Path) -> dict[str, Path]:
    beside = main.with_suffix("")
    index = beside / "Slidedat.ini"
    if not index.is_file():
        raise refusal(
            "slide.multi-file",
            f"{main.name} needs the folder {beside.name}/ beside it, with Slidedat.ini and the .dat files in it; pack "
            "both into the archive",
        )
    _require_parts(main, index, _MRXS_PART.findall(_text(index)), beside)
    return {"slide.mrxs": main, "slide": beside}


def _vms(main: Path) -> dict[str, Path]:
    said = [name for name in _VMS_PART.findall(_text(main)) if not name.lower().endswith(".opt")]  # decoders do without
    named = _require_parts(main, main, said, main.parent)
    others = {name: main.parent / name for name in named if name != main.name}
    return {f"slide{main.suffix.lower()}": main, **others}


def _require_parts(main: Path, index: Path, said: Iterable[str], folder: Path) -> list[str]:
    named = sorted({name for name in said if name})
    for name in named:
        if "/" in name or "\\" in name or name in (".", ".."):
            raise refusal("upload.bundle", f"{index.name} names a file elsewhere: {name[:80]!r}")
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        detail = f"{index.name} of {main.name} names files that are not in {folder.name or 'the archive'}/"
        raise refusal("slide.multi-file", f"{detail}: {', '.join(missing[:5])}; pack the whole slide")
    return named


def _dicom(files: list[Path], folder: Path) -> dict[str, Path]:
    if len({path.parent for path in files}) > 1:
        raise refusal("upload.bundle", f"a series lies in one folder, found {_listed(files, folder)}")
    series = {uid for uid in map(_series_uid, files) if uid is not None}
    if len(series) > 1:
        raise refusal("upload.bundle", f"one DICOM series was expected, found {len(series)}; send each by itself")
    main = max(files, key=lambda path: path.stat().st_size)  # the pixels, not the label
    others = (path for path in files if path != main)
    return {"slide.dcm": main, **{f"{number:05}.dcm": path for number, path in enumerate(others, start=1)}}


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _series_uid(path: Path) -> bytes | None:
    """SeriesInstanceUID, found by its tag near the file's head; None where it is not there."""
    with path.open("rb") as file:
        head = file.read(_DICOM_HEAD_BYTES)
    found = _SERIES.search(head)
    if found is None:
        return None
    size = int.from_bytes(found[1] or found[2], "little")
    return head[found.end() : found.end() + size].rstrip(b"\0 ")


def _text(index: Path) -> str:
    with index.open("rb") as file:
        return file.read(_INDEX_MAX_BYTES).decode("utf-8-sig", errors="replace")


def _moved(parts: dict[str, Path], folder: Path) -> str:
    """Give the slide's parts their names, and remove all else; the first is the main file."""
    kept = folder.with_name("kept")
    remove(kept)
    kept.mkdir()
    for name, path in parts.items():
        path.rename(kept / name)
    remove(folder)
    sync_folder(kept)
    kept.rename(folder)
    return next(iter(parts))


def _listed(files: list[Path], folder: Path) -> str:
    shown = ", ".join(str(path.relative_to(folder)) for path in files[:5])
    return f"{shown} and {len(files) - 5} more" if len(files) > 5 else shown or "nothing"
