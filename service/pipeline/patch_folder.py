"""A folder of training patches: their files, the index `patches.json`, and a journal of the slide in progress.

A patch's file is written before its line in the journal, so that each line has a complete file even after a kill. The
same command then continues after the last line. A slide is added to the index when it is finished.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from slidelift.durable import write_atomically
from slidelift.service.errors import ServiceError, problem
from slidelift.service.pipeline.workspace import WITHOUT_LOCKS, no_locks
from slidelift.wsi.geometry import Region
from slidelift.wsi.provenance import software

INDEX = "patches.json"
_LIBRARIES = ("imagecodecs", "numpy", "openslide-bin", "pillow", "tiffslide")

Cell = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PatchOptions:
    """Options of all patches of a folder.

    Attributes
    ----------
    mpp, size
        µm per pixel, and side in pixels.
    entropy
        Minimum Shannon entropy of a patch in bits. With 0 all patches are kept, and background is not detected.
    most
        Maximum number of patches per slide, selected at random by `seed`; None for all.
    format
        ``png`` or ``jpg`` (quality 95, full chroma).
    source_mpp
        µm per pixel of level 0 of slides whose files do not state it.
    """

    mpp: float
    size: int
    entropy: float
    most: int | None = None
    format: str = "png"
    source_mpp: float | None = None
    seed: int = 0

    def as_parameters(self) -> dict[str, Any]:
        """Return the parameters that the index stores; `source_mpp` is stored with each slide."""
        names = ("mpp", "size", "entropy", "most", "format", "seed")
        return {"max" if name == "most" else name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one patch is kept, and why.

    Attributes
    ----------
    region
        In level-0 pixels.
    entropy
        In bits; None if the patch can't be decoded, and `cause` is the reason.
    """

    region: Region
    entropy: float | None
    kept: bool
    cause: str | None = None


class PatchFolder:
    """Context manager of a patch folder, which a lock reserves for one process until the process ends.

    Raises
    ------
    ServiceError
        On entering: the folder holds other files, or patches of other options, or another process uses it.
    """

    def __init__(self, path: Path, options: PatchOptions) -> None:
        self.path, self.options = path, options
        self._slides: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "PatchFolder":
        if self.path.exists() and not self.path.is_dir():
            raise _refused(f"{self.path}: it is a file; choose a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_index()
        except BlockingIOError:
            os.close(self._lock)
            raise ServiceError(
                problem("request.in-progress", f"{self.path}: another process is writing patches there right now")
            ) from None
        except OSError as error:
            os.close(self._lock)
            if error.errno not in WITHOUT_LOCKS:
                raise
            raise _refused(f"{self.path}: {no_locks(error)}") from error
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def _read_index(self) -> None:
        try:
            index = json.loads((self.path / INDEX).read_text("utf-8"))
            found, slides, patches = index["parameters"], index["slides"], index["patches"]
        except FileNotFoundError:
            others = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
            if others:
                raise _refused(f"{self.path}: holds {others[0]} and no {INDEX}; choose an empty folder") from None
            self._write_index()
            return
        except (ValueError, RecursionError, KeyError, TypeError):
            raise _refused(f"{self.path / INDEX}: not what this command writes; choose another folder") from None
        wanted = self.options.as_parameters()
        differences = [
            f"{name} {found.get(name)}, not {wanted[name]}" for name in wanted if found.get(name) != wanted[name]
        ]
        if differences and (slides or any(self.path.glob(".*.diary"))):
            raise _refused(f"{self.path}: its patches were made with {'; '.join(differences)}; choose another folder")
        self._slides = {slide["stem"]: {**slide, "patches": []} for slide in slides}
        for patch in patches:
            self._slides[patch["stem"]]["patches"].append(patch)
        if differences:
            self._write_index()

    def _write_index(self) -> None:
        slides = [self._slides[stem] for stem in sorted(self._slides)]
        index = {
            "software": software(),
            "parameters": self.options.as_parameters(),
            "slides": [{key: value for key, value in slide.items() if key != "patches"} for slide in slides],
            "patches": [patch for slide in slides for patch in slide["patches"]],
        }
        write_atomically(
            self.path / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        )

    def finished(self, stem: str, origin: dict[str, Any]) -> dict[str, Any] | None:
        """Return the record of a finished slide; None if the slide is not finished or a patch is missing.

        Raises
        ------
        ServiceError
            The folder has patches of another slide, or of another µm per pixel, under this name.
        """
        record = self._slides.get(stem)
        if record is None:
            return None
        self.refuse_another(origin, record)
        (self.path / f".{stem}.diary").unlink(missing_ok=True)  # left by a kill just after the index was written
        return record if all((self.path / patch["file"]).is_file() for patch in record["patches"]) else None

    def journal(self, stem: str, origin: dict[str, Any]) -> "PatchJournal":
        """Begin or continue the journal of a slide."""
        return PatchJournal(self, stem, origin)

    def refuse_another(self, origin: dict[str, Any], found: dict[str, Any]) -> None:
        """Raise ServiceError unless the record `found` is of the slide `origin`."""
        if any(found.get(key) != value for key, value in origin.items()):
            raise _refused(
                f"{origin['name']}: {self.path} has patches of {found.get('name')} under the same name, from another "
                "file or with another µm per pixel; rename the slide, or choose another folder"
            )

    def patch_name(self, stem: str, region: Region) -> str:
        """File name of the patch of that region of level 0."""
        return f"{stem}-x{region.x}-y{region.y}.{self.options.format}"

    def add_slide(self, stem: str, record: dict[str, Any]) -> None:
        """Add a finished slide to the index."""
        self._slides[stem] = record
        self._write_index()


class PatchJournal:
    """The journal of the slide in progress, one line per patch; a context manager.

    Attributes
    ----------
    earlier
        Verdicts of an earlier run by (column, row).
    """

    def __init__(self, folder: PatchFolder, stem: str, origin: dict[str, Any]) -> None:
        self._folder, self._stem = folder, stem
        self._header = {**origin, "versions": {name: version(name) for name in _LIBRARIES}}
        self._path = folder.path / f".{stem}.diary"
        self.earlier: dict[Cell, Verdict] = {}
        self._all: dict[Cell, Verdict] = {}

    def __enter__(self) -> "PatchJournal":
        header, lines = self._read()
        if header is not None:
            self._folder.refuse_another({key: self._header[key] for key in ("name", "sha256", "mpp")}, header)
        if header == self._header:
            self.earlier = {cell: verdict for cell, verdict in lines if self._has_file(verdict)}
        else:  # other library versions may produce other bytes
            for _, verdict in lines:
                (self._folder.path / self._folder.patch_name(self._stem, verdict.region)).unlink(missing_ok=True)
        self._all = dict(self.earlier)
        text = "".join(_line(cell, verdict) for cell, verdict in self.earlier.items())
        write_atomically(self._path, (json.dumps(self._header) + "\n" + text).encode())
        self._file: TextIO = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self) -> tuple[dict[str, Any] | None, list[tuple[Cell, Verdict]]]:
        """Return the stored header and verdicts; an incomplete last line is ignored."""
        try:
            text = self._path.read_text("utf-8")
            first, *rest = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
            return first, [
                (tuple(one["cell"]), Verdict(Region(*one["region"]), one["entropy"], one["kept"], one["cause"]))
                for one in rest
            ]
        except FileNotFoundError:
            return None, []
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _refused(f"{self._path}: not what this command writes; choose another folder") from None

    def _has_file(self, verdict: Verdict) -> bool:
        name = self._folder.patch_name(self._stem, verdict.region)
        return not verdict.kept or (self._folder.path / name).is_file()

    def write(self, cell: Cell, verdict: Verdict, encoded: bytes | None) -> None:
        """Write a patch's file, if it is kept, and then its line."""
        if encoded is not None:
            write_atomically(self._folder.path / self._folder.patch_name(self._stem, verdict.region), encoded)
        self._file.write(_line(cell, verdict))
        self._file.flush()
        self._all[cell] = verdict

    def finish(self, counts: dict[str, int], done: list[Cell]) -> dict[str, Any]:
        """Add the slide to the index, remove the journal, and return the slide's record."""
        verdicts = [self._all[cell] for cell in sorted(done, key=lambda cell: (cell[1], cell[0]))]
        unreadable = [verdict for verdict in verdicts if verdict.entropy is None]
        kept = [verdict for verdict in verdicts if verdict.kept]
        decided = {
            "kept": len(kept),
            "entropy": len(verdicts) - len(kept) - len(unreadable),
            "unreadable": len(unreadable),
        }
        not_needed = counts["grid"] - counts["background"] - len(verdicts)
        record = {
            "stem": self._stem,
            **self._header,
            "counts": {**counts, **decided, "not_needed": not_needed},
            "unreadable": [{"region": _box(one.region), "cause": one.cause} for one in unreadable],
            "patches": [self._entry(verdict) for verdict in kept],
        }
        self._folder.add_slide(self._stem, record)
        self._path.unlink()
        return record

    def _entry(self, verdict: Verdict) -> dict[str, Any]:
        return {
            "file": self._folder.patch_name(self._stem, verdict.region),
            "stem": self._stem,
            "slide": self._header["name"],
            "region": _box(verdict.region),
            "mpp": self._folder.options.mpp,
            "entropy": verdict.entropy,
        }


def _line(cell: Cell, verdict: Verdict) -> str:
    return json.dumps({"cell": cell, **asdict(verdict), "region": _box(verdict.region)}) + "\n"


def _box(region: Region) -> list[int]:
    return [region.x, region.y, region.width, region.height]


def _refused(detail: str) -> ServiceError:
    return ServiceError(problem("request.output", detail))
