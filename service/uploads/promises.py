"""What room unfinished uploads have a claim to. An announcement costs nothing, so by itself it reserves little.

Before its own owner's other uploads an upload has a claim to all that it announced. Before others' it has one to as
much as its owner has sent already, and a little: whoever sends a slide soon has a claim to all of it, whoever announces
terabytes and sends nothing keeps nobody out. An upload that has stalled has no claim; it asks for room once more when
it goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BOOKED_AHEAD_BYTES = 64 * 2**20
"""What is kept for an owner who has sent nothing yet. An upload of unknown size asks for room in steps of this."""

STALLED_SECONDS = 120.0
"""Twice the silence that ends a request: nobody is sending this upload now."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload under way: whose, how many bytes it will have as far as is known, how many it has."""

    owner: str | None
    bytes: int
    received_bytes: int
    is_stalled: bool

    @property
    def promised_bytes(self) -> int:
        """What is still to come."""
        return self.bytes - self.received_bytes


def claimed_bytes(unfinished: Sequence[Unfinished], asker: str | None) -> int:
    """How much of the free room is not there for one more upload of the asker's."""
    moving = [one for one in unfinished if not one.is_stalled]
    claimed = 0
    for owner in {one.owner for one in moving}:
        promised = sum(one.promised_bytes for one in moving if one.owner == owner)
        received = sum(one.received_bytes for one in moving if one.owner == owner)
        claimed += promised if owner == asker else min(promised, received + BOOKED_AHEAD_BYTES)
    return claimed


def has_stalled(touched: float, now: float) -> bool:
    """Whether nothing has come for long; a time far ahead is of a clock that was wrong, and says nothing."""
    return abs(now - touched) > STALLED_SECONDS
