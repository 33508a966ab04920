"""How much disk space is reserved for unfinished uploads.

Announcing a size costs the client nothing, so an announcement alone reserves little. Against other uploads of the same
owner, an upload reserves all bytes that are still to come. Against other owners, an owner's uploads together reserve at
most what this owner has sent already plus `RESERVED_AHEAD_BYTES`. So an owner who sends data keeps the space for it,
and an owner who announces terabytes and sends nothing blocks nobody. A stalled upload reserves nothing; it must be
admitted again when it continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RESERVED_AHEAD_BYTES = 64 * 2**20
"""Reserved for an owner who has sent nothing yet. An upload of unknown size reserves space in steps of this."""

STALLED_SECONDS = 120.0
"""Twice the idle timeout of a request, so no request is sending to an upload this old."""


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """Size of an upload in progress; `bytes` is its final size as far as known."""

    owner: str | None
    bytes: int
    received_bytes: int
    is_stalled: bool

    @property
    def remaining_bytes(self) -> int:
        """Bytes that are still to come."""
        return self.bytes - self.received_bytes


def reserved_bytes(unfinished: Sequence[UnfinishedUpload], owner: str | None) -> int:
    """Return how much free space is not available for another upload of `owner`."""
    active = [upload for upload in unfinished if not upload.is_stalled]
    total = 0
    for other in {upload.owner for upload in active}:
        remaining = sum(upload.remaining_bytes for upload in active if upload.owner == other)
        received = sum(upload.received_bytes for upload in active if upload.owner == other)
        total += remaining if other == owner else min(remaining, received + RESERVED_AHEAD_BYTES)
    return total


def has_stalled(modified: float, now: float) -> bool:
    """Whether nothing was received for `STALLED_SECONDS`; a time in the far future, from a wrong clock, counts too."""
    return abs(now - modified) > STALLED_SECONDS
