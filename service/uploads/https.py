"""Reads a public https address and no other: a guard against requests forged in the service's name (SSRF).

A name is looked up once. Each address that it stands for must be public, and the connection goes to the address that
was checked, so that a second answer of the name server's changes nothing. Certificate and Host header are those of the
name. Port 443 alone, no redirects, no proxy, no credentials in the address.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult

from slidelift.service.errors import refusal

TIMEOUT_SECONDS = 30.0
Hold = Callable[[socket.socket], None]
"""Is told of the socket before anything is waited for on it, so that somebody else can shut it."""
PORT = 443

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "2001::/32", "2002::/16")))
"""IPv6 networks whose addresses stand for IPv4 ones: NAT64, compatible, Teredo, 6to4."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What to ask for, and the one address to ask."""

    host: str
    target: str
    address: str
    port: int = PORT
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)


def is_public(address: Address) -> bool:
    """True for an address of the open internet, and of that alone."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or any(address in network for network in _EMBEDDING):
            return False
        if address.is_site_local or address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def addresses_of(host: str) -> list[str]:
    """All addresses of a name; also of the odd spellings of an address that resolvers know."""
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise refusal("upload.source", "the host's name can't be resolved") from error
    return sorted({str(one[4][0]) for one in found})


def check(url: SplitResult, addresses: Callable[[str], list[str]] = addresses_of) -> Checked:
    """Look the host up; raises ServiceError upload.uri-not-allowed unless all of it is public, upload.source."""
    try:
        port, host = url.port, url.hostname or ""
        host = host if ":" in host else host.encode("idna").decode("ascii")
        path, query = url.path or "/", f"?{url.query}" if url.query else ""
        target = (path + query).encode("ascii").decode()
    except ValueError as error:  # UnicodeError is one
        raise refusal("upload.uri-not-allowed", "the address can't be understood; write it percent-encoded") from error
    if not host or port not in (None, PORT) or "@" in url.netloc or any(not "!" <= one <= "~" for one in target):
        raise refusal("upload.uri-not-allowed", "expected https://host/path: port 443, no user, no password, no space")
    found = addresses(host)
    for text in found:
        try:
            allowed = is_public(ipaddress.ip_address(text))
        except ValueError:
            allowed = False
        if not allowed:
            raise refusal("upload.uri-not-allowed", "the host is not, or not only, at public addresses")
    if not found:
        raise refusal("upload.source", "the host's name can't be resolved")
    return Checked(host, target, found[0])


@contextlib.contextmanager
def get(
    checked: Checked, timeout_seconds: float = TIMEOUT_SECONDS, hold: Hold = lambda _: None
) -> Iterator[tuple[http.client.HTTPResponse, int | None]]:
    """Ask, and hand out the body and its size if the server says one; raises ServiceError upload.source.

    Parameters
    ----------
    timeout_seconds
        How long the server may be silent.
    """
    connection = _Pinned(checked, timeout_seconds, hold)
    answer: http.client.HTTPResponse | None = None
    try:
        try:
            connection.request(
                "GET", checked.target, headers={"Accept-Encoding": "identity", "User-Agent": "slidelift"}
            )
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise refusal("upload.source", f"the server can't be asked ({type(error).__name__})") from error
        if answer.status != http.client.OK:
            redirect = "; redirects are not followed, name where it leads" if 300 <= answer.status < 400 else ""
            raise refusal("upload.source", f"the server answers {answer.status}{redirect}")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise refusal("upload.source", "the server sends the file encoded, though it was asked not to")
        yield answer, answer.length
    finally:
        if answer is not None:
            answer.close()
        connection.close()


class _Pinned(http.client.HTTPSConnection):
    """A connection to one address, in the name of a host."""

    def __init__(self, checked: Checked, timeout_seconds: float, hold: Hold) -> None:
        shown = f"[{checked.host}]" if ":" in checked.host else checked.host
        super().__init__(shown, checked.port, timeout=timeout_seconds, context=checked.trust)
        self._checked, self._hold = checked, hold

    def connect(self) -> None:
        wanted = self._checked
        made: socket.socket = socket.socket(socket.AF_INET6 if ":" in wanted.address else socket.AF_INET)
        try:
            made.settimeout(self.timeout)
            self._hold(made)
            made.connect((wanted.address, wanted.port))
            made = secret = wanted.trust.wrap_socket(made, server_hostname=wanted.host, do_handshake_on_connect=False)
            self._hold(secret)
            secret.do_handshake()
        except BaseException:
            made.close()
            raise
        self.sock = secret
