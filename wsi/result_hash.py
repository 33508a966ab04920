r"""One SHA-256 for a result, whether it is a file (OME-TIFF) or a folder (OME-Zarr).

A folder's is that of its listing, which standard tools make too:
``find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum``.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 2**20


class FolderHash:
    """The hash of a folder whose files are given one after another, in any order."""

    def __init__(self) -> None:
        self._lines: list[tuple[bytes, str]] = []

    @contextmanager
    def file(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """Take one file's bytes, through the function that this lends.

        Parameters
        ----------
        name
            The path below the folder, with slashes.
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


def result_hash(path: Path, between: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file's bytes, or of a folder's listing, in hex.

    Parameters
    ----------
    between
        Called before each MiB is taken in; may raise to stop.
    """
    if path.is_file():
        sha256 = hashlib.sha256()
        _feed(path, sha256.update, between)
        return sha256.hexdigest()
    found = FolderHash()
    for one in path.rglob("*"):
        if one.is_file():
            with found.file(one.relative_to(path).as_posix()) as update:
                _feed(one, update, between)
    return found.hexdigest()


def _feed(path: Path, update: Callable[[bytes], None], between: Callable[[], None]) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            between()
            update(chunk)
