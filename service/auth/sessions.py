"""Browser sessions: a signed cookie replaces the access token, so that the page need not store the token.

The cookie holds the token's SHA-256, the end of the session and an HMAC-SHA256 over both and the token's generation.
The database alone (hashes of all tokens) or the key file alone does not suffice to forge a cookie; both together do. A
stolen cookie is valid until the session ends, as long as the token exists and has the same generation, which is checked
at each request. Single sessions are not stored. Signing out increments the generation, which ends all sessions of the
token in all browsers. Revoking the token ends them too. Deleting the key file ends all sessions of all tokens.
"""

import hashlib
import hmac
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slidelift.durable import atomic_file
from slidelift.service.errors import refusal

SESSION_SECONDS = 12 * 3600
"""A working day: one sign-in a day, and a browser left open is signed out the next morning."""

KEY_FILE = "session.key"
_KEY_BYTES = 32
_PURPOSE = b"slidelift session\0"
_COOKIE = re.compile(r"([0-9a-f]{64})\.([0-9]{1,12})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Session:
    """A session: the SHA-256 of its token and its end in seconds since 1970.

    Attributes
    ----------
    generation
        Generation of the token when the session began (`service.auth.tokens.Token`); signed, but not in the cookie.
    """

    sha256: str
    expires: int
    generation: int = 0

    def is_valid(self, now: float) -> bool:
        """Whether the session has not ended."""
        return now < self.expires

    def cookie(self, key: bytes) -> str:
        """Return the value of the cookie."""
        return f"{self.sha256}.{self.expires}.{_signature(key, self)}"


def new_session(sha256: str, now: float, token_expires: float | None, generation: int = 0) -> Session:
    """Make a session of a token, which ends no later than the token."""
    ends = now + SESSION_SECONDS
    return Session(sha256, int(ends if token_expires is None else min(ends, token_expires)), generation)


def claimed_token(value: str) -> str | None:
    """Return the token hash in a cookie, which is not verified yet; None if the cookie is malformed."""
    parts = _COOKIE.fullmatch(value)
    return parts[1] if parts else None


def verified_session(value: str, key: bytes, generation: int = 0) -> Session | None:
    """Return the session of a cookie, which may have ended; None if the signature does not match key and generation."""
    parts = _COOKIE.fullmatch(value)
    if parts is None:
        return None
    session = Session(parts[1], int(parts[2]), generation)
    return session if hmac.compare_digest(parts[3], _signature(key, session)) else None


def read_key(folder: Path) -> bytes | None:
    """Read the key of a data folder; None before the first sign-in."""
    try:
        key = (folder / KEY_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == _KEY_BYTES else None


def read_or_make_key(folder: Path) -> bytes:
    """Read the key of a data folder, or make it; if several processes make one at once, all use the first.

    Raises
    ------
    ServiceError
        storage.unusable: the file is no key.
    """
    if (key := read_key(folder)) is not None:
        return key
    with (
        suppress(FileExistsError),  # another process made the key first
        atomic_file(folder / KEY_FILE, mode=0o600, replace=False) as file,
    ):
        file.write(secrets.token_bytes(_KEY_BYTES))
    if (key := read_key(folder)) is None:
        raise refusal("storage.unusable", f"{KEY_FILE} in the data folder is not a valid key: delete it")
    return key


def _signature(key: bytes, session: Session) -> str:
    signed = f"{session.sha256}.{session.expires}.{session.generation}"
    return hmac.new(key, _PURPOSE + signed.encode(), hashlib.sha256).hexdigest()
