"""Access tokens: their scopes and limits.

A token is ``slidelift_<id>_<secret>``. The secret has 128 random bits, so the stored SHA-256 of the token cannot be
reversed and a slow hash is not needed.
"""

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "slidelift"


class Scope(StrEnum):
    """Permission of a token."""

    READ = "read"
    """Read own slides and jobs, and download results."""

    WRITE = "write"
    """Upload slides; create, cancel and delete jobs."""

    ADMIN = "admin"
    """Both for the slides and jobs of all tokens."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as stored in the database; times are seconds since 1970.

    Attributes
    ----------
    id
        Public; recorded as the owner of slides and jobs.
    name
        Chosen by its creator.
    sha256
        Hash of the whole token, in hex.
    max_jobs
        Limit of unfinished jobs; None for the limit of the service.
    max_bytes
        Limit of the stored slides in bytes; None for the limit of the service.
    generation
        Number of sign-outs; sessions of an earlier generation are invalid.
    """

    id: str
    name: str
    sha256: str
    scopes: frozenset[Scope]
    created: float
    expires: float | None = None
    max_jobs: int | None = None
    max_bytes: int | None = None
    generation: int = 0

    def is_valid(self, now: float) -> bool:
        """Whether the token has not expired."""
        return self.expires is None or now < self.expires


def new_token(
    name: str,
    scopes: frozenset[Scope],
    now: float,
    *,
    expires: float | None = None,
    max_jobs: int | None = None,
    max_bytes: int | None = None,
) -> tuple[Token, str]:
    """Make a token; the second value is the token itself, which is not stored."""
    identity = secrets.token_hex(8)
    secret = f"{PREFIX}_{identity}_{secrets.token_urlsafe(16)}"
    return Token(identity, name, hash_of(secret), scopes, now, expires, max_jobs, max_bytes), secret


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a token; accepts any text, as JSON may contain half of a surrogate pair."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
