"""Access tokens: who may ask for what, and how much of it.

A token is ``slidelift_<id>_<secret>``: 128 random bits are the secret, so that the plain SHA-256 that is kept of the
whole can be neither guessed nor reversed, and needs no slow hash.
"""

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "slidelift"


class Scope(StrEnum):
    """What a token may do."""

    READ = "read"
    """Look at slides and jobs of its own, and download results."""

    WRITE = "write"
    """Upload slides, ask for jobs, cancel and delete them."""

    ADMIN = "admin"
    """All of that for everybody's slides and jobs."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the database knows it; times are seconds since 1970.

    Attributes
    ----------
    id
        Public; the owner of what is made with the token.
    name
        As its creator called it.
    sha256
        Of the whole token, hex.
    max_jobs
        Unfinished jobs at a time; None for the service's own limit.
    max_bytes
        Bytes of slides kept; None for the service's own limit.
    generation
        How often its sessions were ended by signing out; a session of an earlier one opens nothing.
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
        """Whether it has not expired."""
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
    """Make a token; the second value is the token itself, which is kept nowhere."""
    identity = secrets.token_hex(8)
    secret = f"{PREFIX}_{identity}_{secrets.token_urlsafe(16)}"
    return Token(identity, name, hash_of(secret), scopes, now, expires, max_jobs, max_bytes), secret


def hash_of(secret: str) -> str:
    """What is kept of a token; of any text, since JSON may hold half of a surrogate pair."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
