"""Unpacks an untrusted archive in a child process with resource limits (python -m slidelift.service.uploads.unpack).

Started by `service.processes.runner.unpack`. Reads one request as a JSON line, answers with one, and ends with its
parent. Each name is checked, sizes are counted while writing, and entries other than regular files and folders are
refused.
"""

import contextlib
import errno
import lzma
import os
import resource
import stat
import struct
import sys
import tarfile
import threading
import traceback
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from slidelift.durable import sync_folder
from slidelift.service.errors import ServiceError, problem, refusal
from slidelift.service.processes.own_limits import limit_self
from slidelift.service.processes.protocol import Answer, Failed, UnpackArchive, Unpacked, decode_request, encode
from slidelift.service.storage.disk import CHUNK_BYTES, map_disk_full
from slidelift.service.uploads.names import NAME_MAX_BYTES, Bundle
from slidelift.service.uploads.slide_folder import keep_only_slide

MAX_ENTRIES = 20_000
"""40 times the largest MRXS seen. Each entry costs an inode."""

MAX_RATIO = 100
"""Unpacked to packed size. Compressed pixels stay near 1; a file of zeros reaches 1000 (a zip bomb)."""

RATIO_FLOOR_BYTES = 64 * 2**20
"""The ratio is not checked below this size."""

PATH_MAX_BYTES, DEPTH_MAX = 1024, 16
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 3600

_JUNK_FOLDERS = {"__macosx", "$recycle.bin", "system volume information"}
_JUNK_FILES = {".ds_store", "thumbs.db", "desktop.ini"}
_DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError),
    *(struct.error, NotImplementedError, ValueError, MemoryError, IndexError, KeyError, OverflowError),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the unpacked size: of a slide, and of the disk without its reserve."""

    most_bytes: int
    free_bytes: int


def unpack(archive: Path, bundle: Bundle, target: Path, limits: Limits) -> None:
    """Unpack an archive into an empty folder.

    Raises
    ------
    ServiceError
        upload.bundle if it is damaged or contains entries that no slide needs; upload.too-large, storage.full.
    """
    names = _Names()
    ratio_bytes = max(RATIO_FLOOR_BYTES, MAX_RATIO * archive.stat().st_size)
    left = _Allowance(limits, ratio_bytes)
    try:
        for name, stream in _entries(archive, bundle):
            parts = names.checked(name, is_folder=stream is None)
            if stream is None or _is_junk(parts):
                continue
            path = target.joinpath(*parts)
            with map_disk_full():
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, stream, left)
    except _DAMAGE as error:
        detail = f"the archive is damaged or in an unsupported format ({type(error).__name__}: {error})"
        raise refusal("upload.bundle", f"{detail}; pack it again") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # an invalid offset
            raise
        raise refusal("upload.bundle", "the archive is damaged; pack it again") from error
    for folder, _, _ in os.walk(target):
        sync_folder(Path(folder))


class _Allowance:
    """Counts unpacked bytes."""

    def __init__(self, limits: Limits, ratio_bytes: int) -> None:
        self._limits, self._ratio_bytes, self._bytes = limits, ratio_bytes, 0

    def take(self, wanted: int) -> None:
        self._bytes += wanted
        if self._bytes > self._limits.most_bytes:
            raise refusal("upload.too-large", f"the archive unpacks to more than {self._limits.most_bytes} bytes")
        if self._bytes > self._ratio_bytes:
            raise refusal("upload.bundle", f"the archive unpacks to over {MAX_RATIO} times its size; no slide does")
        if self._bytes > self._limits.free_bytes:
            detail = "the disk has no space for the unpacked archive; delete results or slides no longer needed"
            raise refusal("storage.full", detail)


class _Names:
    """Refuses names that could lead outside the folder or collide, on this or another file system."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, ...], tuple[tuple[str, ...], bool]] = {}
        self._count = 0

    def checked(self, name: str, *, is_folder: bool) -> tuple[str, ...]:
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise _too_many()
        shown = name.encode("utf-8", "backslashreplace").decode()[:80]
        if name.startswith("/") or "\\" in name or any(unicodedata.category(one) in ("Cc", "Cs") for one in name):
            detail = "is absolute, or has a backslash, a control character or bytes that are not UTF-8"
            raise refusal("upload.bundle", f"an entry's name {detail}: {shown!r}")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts or any(len(part.encode()) > NAME_MAX_BYTES for part in parts):
            raise refusal(
                "upload.bundle", f"an entry's name contains '..' or is longer than {NAME_MAX_BYTES} bytes: {shown!r}"
            )
        if len(name.encode()) > PATH_MAX_BYTES or len(parts) > DEPTH_MAX or not (parts or is_folder):
            raise refusal("upload.bundle", f"an entry's path is empty, too long or too deep: {shown!r}")
        for depth in range(1, len(parts) + 1):
            self._claim(parts[:depth], is_file=depth == len(parts) and not is_folder, shown=shown)
        return parts

    def _claim(self, parts: tuple[str, ...], *, is_file: bool, shown: str) -> None:
        folded = tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)
        claimed = self._kinds.setdefault(folded, (parts, is_file))
        if claimed != (parts, is_file) or (is_file and claimed[0] is not parts):
            raise refusal("upload.bundle", f"two entries have the same name, ignoring case: {shown!r}")


def _entries(archive: Path, bundle: Bundle) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield names and contents in the order of the archive; None for a folder."""
    if bundle is Bundle.ZIP:
        yield from _zip_entries(archive)
    else:
        yield from _tar_entries(archive, "r|gz" if bundle is Bundle.TAR_GZ else "r|")


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as packed:
        if len(packed.infolist()) > MAX_ENTRIES:
            raise _too_many()
        for entry in packed.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.flag_bits & 0x41:
                raise refusal("upload.bundle", "the archive is encrypted; pack it without a password")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(entry.orig_filename)
            if entry.is_dir():
                yield entry.orig_filename, None
            else:
                with packed.open(entry) as stream:
                    yield entry.orig_filename, stream


def _tar_entries(archive: Path, mode: Any) -> Iterator[tuple[str, IO[bytes] | None]]:  # a Literal of tarfile's
    with tarfile.open(archive, mode, errorlevel=2) as packed:
        for entry in packed:
            packed.members.clear()  # type: ignore[attr-defined]  # saves memory; entries are read once
            if entry.isdir():
                yield entry.name, None
                continue
            if not entry.isreg() or entry.issparse():
                raise _special(entry.name)
            stream = packed.extractfile(entry)
            if stream is not None:
                yield entry.name, stream


def _too_many() -> ServiceError:
    return refusal("upload.bundle", f"the archive has more than {MAX_ENTRIES} entries")


def _special(name: str) -> ServiceError:
    shown = name.encode("utf-8", "backslashreplace").decode()[:80]
    return refusal("upload.bundle", f"the archive contains a link, a device or a sparse file: {shown!r}")


def _is_junk(parts: tuple[str, ...]) -> bool:
    folded = [part.casefold() for part in parts]
    return bool(_JUNK_FOLDERS.intersection(folded[:-1]) or folded[-1] in _JUNK_FILES or folded[-1].startswith("._"))


def _write(path: Path, stream: IO[bytes], left: _Allowance) -> None:
    with path.open("xb") as file:
        while chunk := stream.read(CHUNK_BYTES):
            left.take(len(chunk))
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def answer(request: UnpackArchive) -> Answer:
    """Carry out a request: the main file, or the problem."""
    limits = Limits(request.most_bytes, request.free_bytes)
    try:
        unpack(request.archive, Bundle(request.bundle), request.target, limits)
        return Unpacked(keep_only_slide(request.target))
    except ServiceError as error:
        return Failed(error.problem)


def main() -> None:
    """Answer the request on standard input."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        limit_self(resource.RLIMIT_AS, MEMORY_BYTES)
        limit_self(resource.RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 5)
        limit_self(resource.RLIMIT_CORE, 0)
        line = sys.stdin.readline()
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        with contextlib.suppress(BrokenPipeError):
            answers.write(encode(_answer_to(line)))


def _answer_to(line: str) -> Answer:
    try:
        request = decode_request(line)
        if not isinstance(request, UnpackArchive):
            raise TypeError(f"{type(request).__name__} is no request to this process")
        limit_self(resource.RLIMIT_FSIZE, request.most_bytes)
        return answer(request)
    except Exception as error:  # noqa: BLE001 - every failure is an answer
        traceback.print_exc()
        return Failed(problem("internal", f"{type(error).__name__} while unpacking"))


def _exit_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
