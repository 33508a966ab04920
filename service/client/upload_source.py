"""What is uploaded of a slide: its one file, or all its files as one tar that is never written to disk.

The tar is laid out beforehand from the files' sizes, so that any part of it can be read at any time: an upload of 20 GB
can be continued in its middle, by another process too, and takes no second 20 GB here. Names and bytes alone are in it,
no times and no owners, so it is the same every time.
"""

import hashlib
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidelift.service.client.errors import IntegrityError, UnusableError
from slidelift.wsi.companions import companion_files, slides_in
from slidelift.wsi.errors import SlideError

_SPREAD = {".mrxs", ".vms", ".vmu"}
_PIECE_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class _Segment:
    """Bytes of the parcel: of a file, or as they stand here."""

    start: int
    length: int
    source: Path | bytes

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.length - offset)
        if isinstance(self.source, bytes):
            return self.source[offset : offset + count]
        with self.source.open("rb") as file:
            file.seek(offset)
            found = file.read(count)
        if len(found) != count:
            raise IntegrityError(f"{self.source.name}: became shorter while it was sent; send it again")
        return found


class UploadSource:
    """A row of bytes that can be read anywhere; holds no file open.

    Attributes
    ----------
    name
        Under which it is sent.
    is_bundle
        True where it is the tar of several files.
    mark
        Changes when a file's size or time changes.
    """

    def __init__(
        self, name: str, files: Sequence[Path], sources: Iterable[tuple[int, Path | bytes]], bundle: bool
    ) -> None:
        self.name, self.is_bundle = name, bundle
        self._segments: list[_Segment] = []
        start = 0
        for length, source in sources:
            self._segments.append(_Segment(start, length, source))
            start += length
        self._starts = [segment.start for segment in self._segments]
        self.bytes = start
        self._files = files
        self.mark = self._marked()

    def is_unchanged(self) -> bool:
        """Whether the files still have the sizes and times that they had at first."""
        try:
            return self._marked() == self.mark
        except OSError:
            return False

    def _marked(self) -> str:
        stats = [(str(file.absolute()), file.stat()) for file in self._files]
        return repr([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; raises IntegrityError where a file has become shorter."""
        pieces = []
        end = min(offset + count, self.bytes)
        number = bisect_right(self._starts, offset) - 1
        while offset < end:
            segment = self._segments[number]
            pieces.append(segment.read(offset - segment.start, end - offset))
            offset += len(pieces[-1])
            number += 1
        return b"".join(pieces)


class RunningDigest:
    """SHA-256 of a parcel's beginning, moved on as it is sent."""

    def __init__(self, parcel: UploadSource) -> None:
        self._parcel, self._hash, self._at = parcel, hashlib.sha256(), 0

    def reach(self, offset: int) -> None:
        """Take in all up to an offset."""
        while self._at < offset:
            piece = self._parcel.read(self._at, min(_PIECE_BYTES, offset - self._at))
            self._hash.update(piece)
            self._at += len(piece)

    def finish(self) -> bytes:
        """Of the whole."""
        self.reach(self._parcel.bytes)
        return self._hash.digest()


def parcel_of(path: Path, name: str | None = None) -> UploadSource:
    """Pack a slide: a file as it is; a MRXS, VMS or VMU with the files that belong to it, a folder of DICOM, as a tar.

    Raises
    ------
    UnusableError
        There is no such file, it is empty, or the folder holds no DICOM.
    """
    if path.is_dir():
        return _bundle(_of_folder(path), path, name or path.absolute().name)
    if not path.is_file():
        raise UnusableError(f"{path}: no such file")
    if path.suffix.lower() in _SPREAD:
        return _bundle(_companions(path), path.parent, name or path.name)
    if path.stat().st_size == 0:
        raise UnusableError(f"{path}: is empty")
    return UploadSource(name or path.name, [path], [(path.stat().st_size, path)], bundle=False)


def _of_folder(folder: Path) -> list[Path]:
    """The files of its one DICOM slide; where no file tells its series, those with the suffix: the service decides."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.is_symlink())
    found = list(slides_in(files).values())
    if len(found) > 1:
        raise UnusableError(f"{folder}: a folder with {len(found)} DICOM slides; put each into a folder of its own")
    chosen = sorted(found[0]) if found else [file for file in files if file.suffix.lower() == ".dcm"]
    if not chosen:
        raise UnusableError(f"{folder}: a folder without .dcm files; name the slide's file")
    return chosen


def _companions(path: Path) -> list[Path]:
    try:
        return companion_files(path)
    except SlideError as error:
        raise UnusableError(str(error)) from error


def _bundle(files: Sequence[Path], root: Path, name: str) -> UploadSource:
    sources: list[tuple[int, Path | bytes]] = []
    for file in files:
        entry = tarfile.TarInfo(file.relative_to(root).as_posix())
        entry.size = file.stat().st_size
        header = entry.tobuf(tarfile.PAX_FORMAT)
        padding = bytes(-entry.size % tarfile.BLOCKSIZE)
        sources += [(len(header), header), (entry.size, file), (len(padding), padding)]
    end = bytes(2 * tarfile.BLOCKSIZE)
    name = name if name.lower().endswith(".tar") else f"{name}.tar"
    return UploadSource(name, files, [one for one in [*sources, (len(end), end)] if one[0]], bundle=True)
