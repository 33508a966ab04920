"""Bytes that are uploaded for a slide: its single file, or all its files as one tar that is never written to disk.

The layout of the tar follows from the files' sizes, so any part of it can be read at any time: an upload of 20 GB can
be continued in the middle, also by another process, without a second copy on disk. The tar holds names and contents
but no times and owners, so it is the same each time.
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

_MULTI_FILE_SUFFIXES = {".mrxs", ".vms", ".vmu"}
_PIECE_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class _Segment:
    """A part of the upload: a file, or given bytes."""

    start: int
    length: int
    source: Path | bytes

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.length - offset)
        if isinstance(self.source, bytes):
            return self.source[offset : offset + count]
        with self.source.open("rb") as file:
            file.seek(offset)
            content = file.read(count)
        if len(content) != count:
            raise IntegrityError(f"{self.source.name} became shorter during the upload; upload it again")
        return content


class UploadSource:
    """Bytes of an upload with random access; keeps no file open.

    Attributes
    ----------
    name
        Name of the upload.
    is_bundle
        True for the tar of several files.
    version
        Changes when the size or modification time of a file changes.
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
        self.version = self._current_version()

    def is_unchanged(self) -> bool:
        """Whether the files have kept their sizes and modification times."""
        try:
            return self._current_version() == self.version
        except OSError:
            return False

    def _current_version(self) -> str:
        stats = [(str(file.absolute()), file.stat()) for file in self._files]
        return repr([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])

    def read(self, offset: int, count: int) -> bytes:
        """Read up to `count` bytes; raises IntegrityError if a file has become shorter."""
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
    """SHA-256 of the part that has been sent so far."""

    def __init__(self, source: UploadSource) -> None:
        self._source, self._hash, self._at = source, hashlib.sha256(), 0

    def advance_to(self, offset: int) -> None:
        """Include everything up to an offset."""
        while self._at < offset:
            piece = self._source.read(self._at, min(_PIECE_BYTES, offset - self._at))
            self._hash.update(piece)
            self._at += len(piece)

    def finish(self) -> bytes:
        """The hash of the whole upload."""
        self.advance_to(self._source.bytes)
        return self._hash.digest()


def open_source(path: Path, name: str | None = None) -> UploadSource:
    """Open a slide for upload; a MRXS, VMS or VMU with the files that belong to it, or a DICOM folder, becomes a tar.

    Raises
    ------
    UnusableError
        There is no such file, it is empty, or the folder holds no DICOM.
    """
    if path.is_dir():
        return _bundle(_of_folder(path), path, name or path.absolute().name)
    if not path.is_file():
        raise UnusableError(f"{path}: no such file")
    if path.suffix.lower() in _MULTI_FILE_SUFFIXES:
        return _bundle(_companions(path), path.parent, name or path.name)
    if path.stat().st_size == 0:
        raise UnusableError(f"{path} is empty")
    return UploadSource(name or path.name, [path], [(path.stat().st_size, path)], bundle=False)


def _of_folder(folder: Path) -> list[Path]:
    """Files of the folder's DICOM slide; if no file states its series, all .dcm files, for the service to decide."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.is_symlink())
    slides = list(slides_in(files).values())
    if len(slides) > 1:
        raise UnusableError(f"{folder}: the folder holds {len(slides)} DICOM slides; put each into its own folder")
    chosen = sorted(slides[0]) if slides else [file for file in files if file.suffix.lower() == ".dcm"]
    if not chosen:
        raise UnusableError(f"{folder}: a folder without .dcm files; give the slide's file")
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
    return UploadSource(name, files, [part for part in [*sources, (len(end), end)] if part[0]], bundle=True)
