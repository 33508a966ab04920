"""Reads from public https addresses only, as a guard against server-side request forgery (SSRF).

A host name is resolved once. All of its addresses must be public, and the connection goes to an address that was
checked, so a different second answer of the name server (DNS rebinding) has no effect. Certificate and Host header
are those of the name. Only port 443 is allowed, and no redirects, proxies or credentials in the address.
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
OnSocket = Callable[[socket.socket], None]
"""Called with the socket before any blocking operation, so that another thread can shut it down."""
PORT = 443

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "2001::/32", "2002::/16")))
"""IPv6 networks that embed IPv4 addresses: NAT64, IPv4-compatible, Teredo, 6to4."""


@dataclass(frozen=True, slots=True)
class CheckedHost:
    """A host, the request target and the one address to connect to."""

    host: str
    target: str
    address: str
    port: int = PORT
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)


def is_public(address: Address) -> bool:
    """True for addresses of the public internet only."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or any(address in network for network in _EMBEDDING):
            return False
        if address.is_site_local or address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def addresses_of(host: str) -> list[str]:
    """Resolve a name to all its addresses; resolvers also accept unusual spellings of an address."""
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise refusal("upload.source", "the host name cannot be resolved") from error
    return sorted({str(one[4][0]) for one in found})


def check(url: SplitResult, addresses: Callable[[str], list[str]] = addresses_of) -> CheckedHost:
    """Resolve the host; raises ServiceError upload.uri-not-allowed unless all addresses are public, upload.source."""
    try:
        port, host = url.port, url.hostname or ""
        host = host if ":" in host else host.encode("idna").decode("ascii")
        path, query = url.path or "/", f"?{url.query}" if url.query else ""
        target = (path + query).encode("ascii").decode()
    except ValueError as error:  # also UnicodeError
        raise refusal("upload.uri-not-allowed", "the address is malformed; percent-encode it") from error
    if not host or port not in (None, PORT) or "@" in url.netloc or any(not "!" <= one <= "~" for one in target):
        raise refusal("upload.uri-not-allowed", "expected https://host/path with port 443, no user, password or space")
    found = addresses(host)
    for text in found:
        try:
            allowed = is_public(ipaddress.ip_address(text))
        except ValueError:
            allowed = False
        if not allowed:
            raise refusal("upload.uri-not-allowed", "the host has addresses that are not public")
    if not found:
        raise refusal("upload.source", "the host name cannot be resolved")
    return CheckedHost(host, target, found[0])


@contextlib.contextmanager
def get(
    checked: CheckedHost, timeout_seconds: float = TIMEOUT_SECONDS, on_socket: OnSocket = lambda _: None
) -> Iterator[tuple[http.client.HTTPResponse, int | None]]:
    """Send a GET request and yield the body and its size, None if unknown; raises ServiceError upload.source.

    Parameters
    ----------
    timeout_seconds
        Timeout of each socket operation.
    """
    connection = _PinnedConnection(checked, timeout_seconds, on_socket)
    response: http.client.HTTPResponse | None = None
    try:
        try:
            connection.request(
                "GET", checked.target, headers={"Accept-Encoding": "identity", "User-Agent": "slidelift"}
            )
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise refusal("upload.source", f"the request to the server failed ({type(error).__name__})") from error
        if response.status != http.client.OK:
            redirect = "; redirects are not followed, send the final address" if 300 <= response.status < 400 else ""
            raise refusal("upload.source", f"the server answered with status {response.status}{redirect}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise refusal("upload.source", "the server sent the file with a Content-Encoding, which was not requested")
        yield response, response.length
    finally:
        if response is not None:
            response.close()
        connection.close()


class _PinnedConnection(http.client.HTTPSConnection):
    """A connection to a fixed address of a host."""

    def __init__(self, checked: CheckedHost, timeout_seconds: float, on_socket: OnSocket) -> None:
        shown = f"[{checked.host}]" if ":" in checked.host else checked.host
        super().__init__(shown, checked.port, timeout=timeout_seconds, context=checked.trust)
        self._checked, self._on_socket = checked, on_socket

    def connect(self) -> None:
        target = self._checked
        made: socket.socket = socket.socket(socket.AF_INET6 if ":" in target.address else socket.AF_INET)
        try:
            made.settimeout(self.timeout)
            self._on_socket(made)
            made.connect((target.address, target.port))
            made = secret = target.trust.wrap_socket(made, server_hostname=target.host, do_handshake_on_connect=False)
            self._on_socket(secret)
            secret.do_handshake()
        except BaseException:
            made.close()
            raise
        self.sock = secret
