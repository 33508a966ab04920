"""A folder of training patches: the files, `patches.json` on all of them, and a diary of the slide in progress.

A patch's file is written whole, then its line in the diary. So after a kill a line means a whole file, and the same
command goes on behind the last line. `patches.json` gains a slide when all of it is decided.
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
class PatchWishes:
    """What is asked of every patch.

    Attributes
    ----------
    mpp, size
        µm per pixel, and side in pixels.
    entropy
        Least Shannon entropy of a whole patch in bits; 0 keeps everything and asks no survey.
    most
        Patches of each slide at most, drawn by `seed`; None for all.
    format
        ``png`` or ``jpg`` (quality 95, full chroma).
    source_mpp
        µm per pixel of the slides' level 0, where they do not say it.
    """

    mpp: float
    size: int
    entropy: float
    most: int | None = None
    format: str = "png"
    source_mpp: float | None = None
    seed: int = 0

    def as_parameters(self) -> dict[str, Any]:
        """What all patches of one folder have in common; the source's pixel size stands with each slide."""
        names = ("mpp", "size", "entropy", "most", "format", "seed")
        return {"max" if name == "most" else name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one patch.

    Attributes
    ----------
    region
        In level-0 pixels.
    entropy
        Bits; None where the patch can't be decoded, and `cause` says why.
    """

    region: Region
    entropy: float | None
    kept: bool
    cause: str | None = None


class PatchFolder:
    """Owned by one process at a time (a lock on the folder, which dies with it); a context manager.

    Raises
    ------
    ServiceError
        On entering: the folder holds other things than patches, patches that were made otherwise, or another
        process is at work in it.
    """

    def __init__(self, path: Path, wishes: PatchWishes) -> None:
        self.path, self.wishes = path, wishes
        self._slides: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "PatchFolder":
        if self.path.exists() and not self.path.is_dir():
            raise _refused(f"{self.path}: a file; name a folder")
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
            strangers = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
            if strangers:
                raise _refused(f"{self.path}: holds {strangers[0]} and no {INDEX}; choose an empty folder") from None
            self._write_index()
            return
        except (ValueError, RecursionError, KeyError, TypeError):
            raise _refused(f"{self.path / INDEX}: not what this command writes; choose another folder") from None
        asked = self.wishes.as_parameters()
        wrong = [f"{name} {found.get(name)}, not {asked[name]}" for name in asked if found.get(name) != asked[name]]
        if wrong and (slides or any(self.path.glob(".*.diary"))):
            raise _refused(f"{self.path}: its patches were made with {'; '.join(wrong)}; choose another folder")
        self._slides = {slide["stem"]: {**slide, "patches": []} for slide in slides}
        for patch in patches:
            self._slides[patch["stem"]]["patches"].append(patch)
        if wrong:
            self._write_index()

    def _write_index(self) -> None:
        slides = [self._slides[stem] for stem in sorted(self._slides)]
        index = {
            "software": software(),
            "parameters": self.wishes.as_parameters(),
            "slides": [{key: value for key, value in slide.items() if key != "patches"} for slide in slides],
            "patches": [patch for slide in slides for patch in slide["patches"]],
        }
        write_atomically(
            self.path / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        )

    def finished(self, stem: str, origin: dict[str, Any]) -> dict[str, Any] | None:
        """The record of a slide of which everything is there; None where something is still to be done.

        Raises
        ------
        ServiceError
            The folder has patches of another slide, or of another µm per pixel, under this name.
        """
        record = self._slides.get(stem)
        if record is None:
            return None
        self.refuse_another(origin, record)
        (self.path / f".{stem}.diary").unlink(missing_ok=True)  # a kill came just after the index was written
        return record if all((self.path / patch["file"]).is_file() for patch in record["patches"]) else None

    def diary(self, stem: str, origin: dict[str, Any]) -> "Diary":
        """Begin or continue a slide."""
        return Diary(self, stem, origin)

    def refuse_another(self, origin: dict[str, Any], found: dict[str, Any]) -> None:
        """Raise unless what was `found` comes from the slide that `origin` describes."""
        if any(found.get(key) != value for key, value in origin.items()):
            raise _refused(
                f"{origin['name']}: {self.path} has patches of {found.get('name')} under the same name, which is "
                "another file or was given another µm per pixel; rename the slide, or choose another folder"
            )

    def patch_name(self, stem: str, region: Region) -> str:
        """File of the patch that shows that part of level 0."""
        return f"{stem}-x{region.x}-y{region.y}.{self.wishes.format}"

    def enter_slide(self, stem: str, record: dict[str, Any]) -> None:
        """Put a slide that is done into the index."""
        self._slides[stem] = record
        self._write_index()


class Diary:
    """What was decided of the slide in progress, a line a patch; a context manager that closes its file.

    Attributes
    ----------
    known
        Verdicts of an earlier run, by column and row.
    """

    def __init__(self, folder: PatchFolder, stem: str, origin: dict[str, Any]) -> None:
        self._folder, self._stem = folder, stem
        self._header = {**origin, "versions": {name: version(name) for name in _LIBRARIES}}
        self._path = folder.path / f".{stem}.diary"
        self.known: dict[Cell, Verdict] = {}
        self._all: dict[Cell, Verdict] = {}

    def __enter__(self) -> "Diary":
        header, lines = self._earlier()
        if header is not None:
            self._folder.refuse_another({key: self._header[key] for key in ("name", "sha256", "mpp")}, header)
        if header == self._header:
            self.known = {cell: verdict for cell, verdict in lines if self._is_there(verdict)}
        else:  # begun with other versions of the libraries: the bytes could differ
            for _, verdict in lines:
                (self._folder.path / self._folder.patch_name(self._stem, verdict.region)).unlink(missing_ok=True)
        self._all = dict(self.known)
        text = "".join(_line(cell, verdict) for cell, verdict in self.known.items())
        write_atomically(self._path, (json.dumps(self._header) + "\n" + text).encode())
        self._file: TextIO = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _earlier(self) -> tuple[dict[str, Any] | None, list[tuple[Cell, Verdict]]]:
        """Header and verdicts that lie here; a last line that a kill or a power cut tore is left out."""
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

    def _is_there(self, verdict: Verdict) -> bool:
        name = self._folder.patch_name(self._stem, verdict.region)
        return not verdict.kept or (self._folder.path / name).is_file()

    def write(self, cell: Cell, verdict: Verdict, encoded: bytes | None) -> None:
        """Write a patch's file, if it is kept, and then what was decided."""
        if encoded is not None:
            write_atomically(self._folder.path / self._folder.patch_name(self._stem, verdict.region), encoded)
        self._file.write(_line(cell, verdict))
        self._file.flush()
        self._all[cell] = verdict

    def finish(self, counts: dict[str, int], looked_at: list[Cell]) -> dict[str, Any]:
        """Put the slide into the index, remove the diary, and return the slide's record."""
        verdicts = [self._all[cell] for cell in sorted(looked_at, key=lambda cell: (cell[1], cell[0]))]
        unreadable = [verdict for verdict in verdicts if verdict.entropy is None]
        kept = [verdict for verdict in verdicts if verdict.kept]
        decided = {
            "kept": len(kept),
            "entropy": len(verdicts) - len(kept) - len(unreadable),
            "unreadable": len(unreadable),
        }
        rest = counts["grid"] - counts["background"] - len(verdicts)
        record = {
            "stem": self._stem,
            **self._header,
            "counts": {**counts, **decided, "not_needed": rest},
            "unreadable": [{"region": _numbers(one.region), "cause": one.cause} for one in unreadable],
            "patches": [self._entry(verdict) for verdict in kept],
        }
        self._folder.enter_slide(self._stem, record)
        self._path.unlink()
        return record

    def _entry(self, verdict: Verdict) -> dict[str, Any]:
        return {
            "file": self._folder.patch_name(self._stem, verdict.region),
            "stem": self._stem,
            "slide": self._header["name"],
            "region": _numbers(verdict.region),
            "mpp": self._folder.wishes.mpp,
            "entropy": verdict.entropy,
        }


def _line(cell: Cell, verdict: Verdict) -> str:
    return json.dumps({"cell": cell, **asdict(verdict), "region": _numbers(verdict.region)}) + "\n"


def _numbers(region: Region) -> list[int]:
    return [region.x, region.y, region.width, region.height]


def _refused(detail: str) -> ServiceError:
    return ServiceError(problem("request.output", detail))
