"""Headers of tus 1.0.0, the protocol of resumable uploads.

Source: https://tus.io/protocols/resumable-upload (2016-03-25), with the extensions of `EXTENSIONS`.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate

from slidelift.service.errors import refusal
from slidelift.service.uploads.digests import CHECKSUM_ALGORITHMS

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination"
PIECE_TYPE = "application/offset+octet-stream"

_METADATA_MAX = 4096
_KEY = re.compile(r"[!-+\--~]+")  # printable ASCII without space and comma


@dataclass(frozen=True, slots=True)
class Creation:
    """The headers that begin an upload; `total_bytes` is None if the client sends the size later."""

    name: str
    total_bytes: int | None
    metadata: str


def capabilities(max_bytes: int) -> dict[str, str]:
    """Return the response headers of OPTIONS."""
    return {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(CHECKSUM_ALGORITHMS),
    }


def require_version(headers: Mapping[str, str]) -> None:
    """Raise ServiceError upload.tus-version unless the client uses this version."""
    if headers.get("tus-resumable") != VERSION:
        raise refusal("upload.tus-version", f"send the header Tus-Resumable: {VERSION}")


def creation(headers: Mapping[str, str]) -> Creation:
    """Parse the headers of a creation request; raises ServiceError upload.header, upload.name."""
    total = number(headers, "upload-length")
    deferred = headers.get("upload-defer-length")
    if deferred not in (None, "1"):
        raise refusal("upload.header", "Upload-Defer-Length must be 1")
    if (total is None) == (deferred is None):
        raise refusal("upload.header", "send either Upload-Length, or Upload-Defer-Length: 1")
    pairs = _metadata(headers.get("upload-metadata", ""))
    name = pairs.get("filename", pairs.get("name"))
    if name is None:
        raise refusal("upload.name", "send the file name: Upload-Metadata: filename <base64 of the name>")
    encoded_pairs = (f"{key} {base64.b64encode(value.encode()).decode()}".strip() for key, value in pairs.items())
    return Creation(name, total, ",".join(encoded_pairs))


def number(headers: Mapping[str, str], header: str) -> int | None:
    """Parse a header of digits, None if it was not sent; raises ServiceError upload.header."""
    text = headers.get(header)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise refusal("upload.header", f"{header.title()} must be a whole number of bytes")
    return int(text)


def http_date(seconds: float) -> str:
    """Format a time as an HTTP date."""
    return formatdate(seconds, usegmt=True)


def _metadata(header: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    if len(header) > _METADATA_MAX:
        raise refusal("upload.header", f"Upload-Metadata has at most {_METADATA_MAX} characters")
    for pair in header.split(",") if header.strip() else ():
        key, _, encoded = pair.strip().partition(" ")
        try:
            value = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        except ValueError as error:
            raise refusal("upload.header", "Upload-Metadata must be pairs of a key and base64-encoded UTF-8") from error
        if not _KEY.fullmatch(key) or key in pairs:
            raise refusal("upload.header", "a key of Upload-Metadata must be printable ASCII without comma, and unique")
        pairs[key] = value
    return pairs
