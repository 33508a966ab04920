r"""SHA-256 of a result, which is a file (OME-TIFF) or a folder (OME-Zarr).

The hash of a folder is that of its listing, which standard tools can make too:
``find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum``.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 2**20


class FolderHash:
    """Hash of a folder whose files are added one after another, in any order."""

    def __init__(self) -> None:
        self._lines: list[tuple[bytes, str]] = []

    @contextmanager
    def file(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """Add a file; yields a function that takes the file's bytes.

        Parameters
        ----------
        name
            Path of the file relative to the folder, with slashes.
        """
        sha256 = hashlib.sha256()
        yield sha256.update
        self._lines.append((name.encode(), sha256.hexdigest()))

    def hexdigest(self) -> str:
        """SHA-256 of the listing, in hex."""
        listing = hashlib.sha256()
        for name, digest in sorted(self._lines):
            listing.update(digest.encode() + b"  " + name + b"\n")
        return listing.hexdigest()


def result_hash(path: Path, check_cancelled: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file's bytes, or of a folder's listing, in hex.

    Parameters
    ----------
    check_cancelled
        Called before each MiB is hashed; may raise to stop.
    """
    if path.is_file():
        sha256 = hashlib.sha256()
        _feed(path, sha256.update, check_cancelled)
        return sha256.hexdigest()
    folder_hash = FolderHash()
    for file in path.rglob("*"):
        if file.is_file():
            with folder_hash.file(file.relative_to(path).as_posix()) as update:
                _feed(file, update, check_cancelled)
    return folder_hash.hexdigest()


def _feed(path: Path, update: Callable[[bytes], None], check_cancelled: Callable[[], None]) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            check_cancelled()
            update(chunk)
