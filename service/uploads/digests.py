"""Parses the digest headers of uploads: Repr-Digest and Content-Digest (RFC 9530), Upload-Checksum (tus)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from slidelift.service.errors import refusal

CHECKSUM_ALGORITHMS = ("sha1", "sha256", "md5")
"""Algorithms for the pieces of tus uploads. The protocol requires sha1. They detect damage, not forgery."""

_FIELD_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
_FIELD = re.compile(r"(?:^|,)\s*([A-Za-z0-9*_.-]+)\s*=\s*([^,]*)")


@dataclass(frozen=True, slots=True)
class Digest:
    """An expected digest; `algorithm` is a name of hashlib."""

    algorithm: str
    value: bytes


def expected_digests(headers: Mapping[str, str]) -> tuple[Digest, ...]:
    """Parse Repr-Digest and Content-Digest; unknown algorithms are ignored (RFC 9530).

    Raises
    ------
    ServiceError
        upload.digest-invalid.
    """
    found = []
    for header in ("repr-digest", "content-digest"):
        for name, value in _FIELD.findall(headers.get(header, "")):
            if algorithm := _FIELD_ALGORITHMS.get(name.lower()):
                inner = value.strip()
                encoded = inner[1:-1] if len(inner) > 1 and inner[0] == inner[-1] == ":" else ""
                found.append(_digest(algorithm, encoded, f"{name}=:<base64>: (RFC 9530)"))
    return tuple(found)


def expected_checksum(header: str | None) -> Digest | None:
    """Parse Upload-Checksum; raises ServiceError upload.digest-invalid."""
    if header is None:
        return None
    algorithm, _, encoded = header.strip().partition(" ")
    if algorithm not in CHECKSUM_ALGORITHMS:
        raise refusal("upload.digest-invalid", f"Upload-Checksum supports {', '.join(CHECKSUM_ALGORITHMS)}")
    return _digest(algorithm, encoded.strip(), f"{algorithm} <base64>")


def _digest(algorithm: str, encoded: str, form: str) -> Digest:
    try:
        value = base64.b64decode(encoded, validate=True)
    except ValueError:  # also binascii.Error, and for non-ASCII characters
        value = b""
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if len(value) != size:
        raise refusal("upload.digest-invalid", f"expected {form} of {size} bytes")
    return Digest(algorithm, value)


def repr_digest(sha256: str) -> str:
    """Format a hex SHA-256 as the value of Repr-Digest."""
    return f"sha-256=:{base64.b64encode(binascii.unhexlify(sha256)).decode()}:"
