"""The words of tus 1.0.0, the protocol of resumable uploads: headers in, headers out.

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
    """What a client says when it begins an upload; `total_bytes` is None where it will say that later."""

    name: str
    total_bytes: int | None
    metadata: str


def capabilities(max_bytes: int) -> dict[str, str]:
    """What OPTIONS answers."""
    return {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(CHECKSUM_ALGORITHMS),
    }


def require_version(headers: Mapping[str, str]) -> None:
    """Raise ServiceError upload.tus-version unless the client speaks this one."""
    if headers.get("tus-resumable") != VERSION:
        raise refusal("upload.tus-version", f"send the header Tus-Resumable: {VERSION}")


def creation(headers: Mapping[str, str]) -> Creation:
    """Read the headers of a creation; raises ServiceError upload.header, upload.name."""
    total = number(headers, "upload-length")
    deferred = headers.get("upload-defer-length")
    if deferred not in (None, "1"):
        raise refusal("upload.header", "Upload-Defer-Length can be nothing but 1")
    if (total is None) == (deferred is None):
        raise refusal("upload.header", "send either Upload-Length, or Upload-Defer-Length: 1")
    said = _metadata(headers.get("upload-metadata", ""))
    name = said.get("filename", said.get("name"))
    if name is None:
        raise refusal("upload.name", "say the file's name: Upload-Metadata: filename <base64 of the name>")
    pairs = (f"{key} {base64.b64encode(value.encode()).decode()}".strip() for key, value in said.items())
    return Creation(name, total, ",".join(pairs))


def number(headers: Mapping[str, str], header: str) -> int | None:
    """A header of digits, None where it was not sent; raises ServiceError upload.header."""
    text = headers.get(header)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise refusal("upload.header", f"{header.title()} is a whole number of bytes")
    return int(text)


def moment(seconds: float) -> str:
    """A time as HTTP writes it."""
    return formatdate(seconds, usegmt=True)


def _metadata(header: str) -> dict[str, str]:
    said: dict[str, str] = {}
    if len(header) > _METADATA_MAX:
        raise refusal("upload.header", f"Upload-Metadata has at most {_METADATA_MAX} characters")
    for pair in header.split(",") if header.strip() else ():
        key, _, encoded = pair.strip().partition(" ")
        try:
            value = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        except ValueError as error:
            raise refusal("upload.header", "Upload-Metadata holds pairs of a key and base64 of UTF-8") from error
        if not _KEY.fullmatch(key) or key in said:
            raise refusal("upload.header", "a key of Upload-Metadata is printable ASCII without comma, and named once")
        said[key] = value
    return said
