"""Sessions of a browser: a signed cookie stands for an access token, which no page has to keep.

The cookie holds the token's SHA-256, the end of the session and an HMAC-SHA256 over both and the token's generation.
Who steals the database has the hashes of all tokens and can still make no cookie; who steals the key file has no hash,
and who has both can sign in as anybody. A cookie that was stolen opens what its token opens until the session ends, but
no longer than the token is known and of that generation: it is looked up at each request. Nothing is stored for a
single session. Signing out counts the generation up, which ends all sessions of the token, in every browser, and copies
of their cookies; revoking the token does too, and deleting the key file ends everybody's.
"""

import hashlib
import hmac
import re
import secrets
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slidelift.durable import atomic_file
from slidelift.service.errors import refusal

SESSION_SECONDS = 12 * 3600
"""A working day: nobody signs in twice a day, and no browser left open is signed in the next morning."""

KEY_FILE = "session.key"
_KEY_BYTES = 32
_PURPOSE = b"slidelift session\0"
_FORM = re.compile(r"([0-9a-f]{64})\.([0-9]{1,12})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Session:
    """Who a cookie says is there: the hash of the token, and until when in seconds since 1970.

    Attributes
    ----------
    generation
        That of the token when the session began (`service.auth.tokens.Token`); sealed with the rest, and not told.
    """

    sha256: str
    expires: int
    generation: int = 0

    def is_valid(self, now: float) -> bool:
        """Whether it has not ended."""
        return now < self.expires

    def sealed(self, key: bytes) -> str:
        """The value of the cookie."""
        return f"{self.sha256}.{self.expires}.{_seal(key, self)}"


def begun(sha256: str, now: float, token_expires: float | None, generation: int = 0) -> Session:
    """Begin the session of a token; it ends no later than that."""
    ends = now + SESSION_SECONDS
    return Session(sha256, int(ends if token_expires is None else min(ends, token_expires)), generation)


def claimed(value: str) -> str | None:
    """The hash of the token that a cookie is said to stand for, which `opened` proves; None where it is no cookie."""
    parts = _FORM.fullmatch(value)
    return parts[1] if parts else None


def opened(value: str, key: bytes, generation: int = 0) -> Session | None:
    """The session that a cookie holds, over or not; None where it was not sealed by the key for that generation."""
    parts = _FORM.fullmatch(value)
    if parts is None:
        return None
    session = Session(parts[1], int(parts[2]), generation)
    return session if hmac.compare_digest(parts[3], _seal(key, session)) else None


def key_of(folder: Path) -> bytes | None:
    """The key of a data folder; None before anybody has signed in."""
    try:
        key = (folder / KEY_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == _KEY_BYTES else None


def made_key_of(folder: Path) -> bytes:
    """The key of a data folder, made if there is none; of several processes that make one at once, one wins.

    Raises
    ------
    ServiceError
        storage.unusable: the file holds something else.
    """
    if (key := key_of(folder)) is not None:
        return key
    partial = folder / f".{KEY_FILE}-{uuid.uuid4().hex[:8]}"
    with (
        suppress(FileExistsError),  # another process made the key first
        atomic_file(folder / KEY_FILE, partial=partial, mode=0o600, replace=False) as file,
    ):
        file.write(secrets.token_bytes(_KEY_BYTES))
    if (key := key_of(folder)) is None:
        raise refusal("storage.unusable", f"{KEY_FILE} in the data folder is not a key: delete it")
    return key


def _seal(key: bytes, session: Session) -> str:
    sealed = f"{session.sha256}.{session.expires}.{session.generation}"
    return hmac.new(key, _PURPOSE + sealed.encode(), hashlib.sha256).hexdigest()
