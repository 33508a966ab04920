"""Finds the one slide in an unpacked archive, checks that it is complete, and renames its files.

The new names contain no text of a user. Formats of several files, as OpenSlide describes them: MRXS is a file beside a
folder of the same name, whose Slidedat.ini lists the other files. VMS and VMU list JPEGs and maps in the same folder.
DICOM is a folder with the instances of one series, with any names and beside any other files. `wsi.companions` defines
which names an index file may contain.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from slidelift.durable import sync_folder
from slidelift.service.errors import refusal
from slidelift.service.storage.disk import remove
from slidelift.service.uploads.names import MULTI_FILE_SUFFIXES, slide_suffix
from slidelift.wsi.companions import mrxs_index, mrxs_names, slides_in, vms_names
from slidelift.wsi.dicom import is_dicom
from slidelift.wsi.errors import SlideError

_IMAGE_SUFFIXES = (".png", ".jpeg", ".jpg", ".jp2")


def keep_only_slide(folder: Path) -> str:
    """Reduce a folder to the one slide in it, and return the name of the main file.

    Raises
    ------
    ServiceError
        upload.bundle if there is no slide or several, slide.multi-file if files of the slide are missing.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    indexes = [path for path in files if path.suffix.lower() in MULTI_FILE_SUFFIXES]
    dicoms = [path for path in files if path.suffix.lower() == ".dcm" or is_dicom(path)]
    slides = [path for path in files if slide_suffix(path.name) not in ("", *_IMAGE_SUFFIXES) and path not in dicoms]
    images = [path for path in files if slide_suffix(path.name) in _IMAGE_SUFFIXES]
    if indexes:
        main = _only(indexes, folder)
        parts = _mrxs(main) if main.suffix.lower() == ".mrxs" else _vms(main)
    elif dicoms:
        parts = _dicom(dicoms, slides, folder)
    elif slides or images or len(files) == 1:
        found = _only(slides or images or files, folder)
        parts = {"slide" + slide_suffix(found.name): found}
    else:
        raise refusal("upload.bundle", f"the archive contains no slide; it contains {_listed(files, folder)}")
    return _rename_parts(parts, folder)


def _only(found: list[Path], folder: Path) -> Path:
    if len(found) > 1:
        raise refusal("upload.bundle", f"expected one slide, found {_listed(found, folder)}; send each separately")
    return found[0]


def _mrxs(main: Path) -> dict[str, Path]:
    beside, index = main.with_suffix(""), mrxs_index(main)
    if not index.is_file():
        raise refusal(
            "slide.multi-file",
            f"{main.name} needs the folder {beside.name}/ beside it, with Slidedat.ini and the .dat files; pack both "
            "into the archive",
        )
    _require_parts(main, index, _names(mrxs_names, index), beside)
    return {"slide.mrxs": main, "slide": beside}


def _vms(main: Path) -> dict[str, Path]:
    named = _names(vms_names, main)
    needed = [name for name in named if not name.lower().endswith(".opt")]  # optional for decoders
    _require_parts(main, main, needed, main.parent)
    others = {name: main.parent / name for name in named if name != main.name and (main.parent / name).is_file()}
    return {f"slide{main.suffix.lower()}": main, **others}


def _names(listed: Callable[[Path], list[str]], index: Path) -> list[str]:
    try:
        return listed(index)
    except SlideError as error:
        raise refusal("upload.bundle", str(error)) from error


def _require_parts(main: Path, index: Path, named: Iterable[str], folder: Path) -> None:
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        detail = f"{index.name} of {main.name} lists files that are not in {folder.name or 'the archive'}/"
        raise refusal("slide.multi-file", f"{detail}: {', '.join(missing[:5])}; pack the whole slide")


def _dicom(files: list[Path], others: list[Path], folder: Path) -> dict[str, Path]:
    found = list(slides_in(files).values())
    mains = [*(series[0] for series in found), *others] or files
    if len(mains) > 1 and found:
        kinds = f"expected one slide, found {len(found)} DICOM series and {len(others)} other slides"
        raise refusal("upload.bundle", f"{kinds}: {_listed(mains, folder)}; send each separately")
    series = found[0] if found else mains
    if len({path.parent for path in series}) > 1:
        raise refusal("upload.bundle", f"a DICOM series must be in one folder, found {_listed(series, folder)}")
    main = _only(mains, folder)
    suffix = ".dcm" if found else slide_suffix(main.name)
    return {f"slide{suffix}": main, **{f"{number:05}.dcm": one for number, one in enumerate(series[1:], start=1)}}


def _rename_parts(parts: dict[str, Path], folder: Path) -> str:
    """Rename the files of the slide and delete all others; return the name of the first, the main file."""
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
