"""Browser sessions: sign-in, permissions, end and protection of the cookie."""

import logging
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from slidelift.service.api.access import Caller, identify
from slidelift.service.auth.sessions import (
    KEY_FILE,
    SESSION_SECONDS,
    new_session,
    read_key,
    read_or_make_key,
    verified_session,
)
from slidelift.service.auth.tokens import Scope, new_token
from slidelift.service.errors import ServiceError

PAGE = {"X-Slidelift": "page"}
Client = Callable[[FastAPI], Any]


class Browser:
    """A client that stores the session cookie and sends it."""

    def __init__(self, app: FastAPI, client: Client) -> None:
        self.app, self._call, self.cookie = app, client(app), ""

    def __call__(self, method: str, url: str, **options: Any) -> httpx.Response:
        headers = {"Cookie": f"slidelift_session={self.cookie}"} if self.cookie else {}
        answer: httpx.Response = self._call(method, url, **{**options, "headers": headers | options.get("headers", {})})
        if "set-cookie" in answer.headers:
            self.cookie = morsel(answer).value
        return answer

    def sign_in(self, secret: str, url: str = "/v1/session") -> httpx.Response:
        return self("POST", url, json={"token": secret}, headers=PAGE)


def morsel(answer: httpx.Response) -> "Morsel[str]":
    return SimpleCookie(answer.headers["set-cookie"])["slidelift_session"]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def token(app: FastAPI, *scopes: Scope, **limits: Any) -> str:
    made, secret = new_token("lab", frozenset(scopes or (Scope.READ, Scope.WRITE)), time.time(), **limits)
    app.state.context.store.add_token(made)
    return secret


@pytest.fixture
def guarded(open_app: Callable[..., FastAPI]) -> FastAPI:
    return open_app(auth="on")


@pytest.fixture
def browser(guarded: FastAPI, client: Client) -> Browser:
    return Browser(guarded, client)


def test_session_has_the_scopes_of_its_token(guarded: FastAPI, client: Client) -> None:
    for scopes, reads, writes, scrapes in [
        ((Scope.READ,), 200, 403, 403),
        ((Scope.WRITE,), 403, 404, 403),
        ((Scope.READ, Scope.WRITE), 200, 404, 403),
        ((Scope.ADMIN,), 200, 404, 200),
    ]:
        browser = Browser(guarded, client)
        assert browser.sign_in(token(guarded, *scopes)).status_code == 204
        assert browser("GET", "/v1/jobs").status_code == reads
        assert browser("DELETE", "/v1/jobs/x", headers=PAGE).status_code == writes
        assert browser("GET", "/metrics").status_code == scrapes


def test_session_names_its_token(browser: Browser, open_app: Callable[..., FastAPI], client: Client) -> None:
    stranger = {"needed": True, "signed_in": False, "name": None, "scopes": [], "expires": None}
    assert browser("GET", "/v1/session").json() == stranger
    browser.sign_in(token(browser.app, Scope.ADMIN))
    answer = browser("GET", "/v1/session")
    session = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (session["signed_in"], session["name"], session["scopes"]) == (True, "lab", ["read", "write", "admin"])
    assert session["expires"].endswith("Z")
    browser.cookie = "x"
    assert browser("GET", "/v1/session").json() == stranger
    by_header = {"Authorization": f"Bearer {token(browser.app, Scope.READ)}"}
    session = browser("GET", "/v1/session", headers=by_header).json()
    assert session == {"needed": True, "signed_in": True, "name": "lab", "scopes": ["read"], "expires": None}
    everybody = client(open_app())("GET", "/v1/session").json()
    assert everybody == {**stranger, "needed": False, "signed_in": True, "scopes": ["read", "write", "admin"]}


def test_wrong_token_begins_no_session(browser: Browser) -> None:
    late = token(browser.app, expires=time.time() - 1)
    for secret in ("slidelift_0_guess", late, "Bearer x"):
        answer = browser.sign_in(secret)
        assert code(answer) == (401, "access.token-invalid")
        assert "set-cookie" not in answer.headers
        assert secret not in answer.text
        assert answer.headers["cache-control"] == "no-store"
    assert browser.sign_in("x" * 201).status_code == 422
    half = browser("POST", "/v1/session", content=rb'{"token": "\ud800"}', headers={"Content-Type": "application/json"})
    assert code(half) == (401, "access.token-invalid")
    assert not (browser.app.state.context.settings.data_dir / KEY_FILE).exists()


def test_sign_in_requires_json_which_cross_site_forms_cannot_send(browser: Browser) -> None:
    body = f'{{"token": "{token(browser.app)}"}}'.encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"Content-Type": content_type} if content_type else {}
        answer = browser("POST", "/v1/session", content=body, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (422, False)


def test_modified_or_foreign_cookie_is_refused(browser: Browser, tmp_path: Path) -> None:
    browser.sign_in(token(browser.app))
    good = browser.cookie
    sha256, expires, seal = good.split(".")
    foreign = new_session(sha256, time.time(), None).cookie(read_or_make_key(tmp_path))
    other = new_session("0" * 64, time.time(), None).cookie(
        read_key(browser.app.state.context.settings.data_dir) or b""
    )
    for bad in [
        f"{'0' * 64}.{expires}.{seal}",
        f"{sha256}.{int(expires) + 1}.{seal}",
        f"{sha256}.{expires}.{'0' * 64}",
        f"{sha256}.{expires}.",
        f"{sha256}.{expires}",
        sha256,
        f"{sha256}.-1.{seal}",
        f"{sha256}.{'9' * 5000}.{seal}",
        f"{good}.x",
        foreign,
        other,
    ]:
        browser.cookie = bad
        assert code(browser("GET", "/v1/jobs")) == (401, "access.token-invalid"), bad
    browser.cookie = good
    assert browser("GET", "/v1/jobs").status_code == 200


def test_session_ends_after_its_lifetime_and_not_later_than_its_token(browser: Browser) -> None:
    now, key = time.time(), read_or_make_key(browser.app.state.context.settings.data_dir)
    browser.sign_in(token(browser.app))
    session = verified_session(browser.cookie, key)
    assert session is not None
    assert abs(session.expires - now - SESSION_SECONDS) < 60
    browser.cookie = new_session(session.sha256, now - SESSION_SECONDS - 1, None).cookie(key)
    assert code(browser("GET", "/v1/jobs")) == (401, "access.token-invalid")
    answer = browser.sign_in(token(browser.app, expires=now + 100))
    assert int(morsel(answer)["max-age"]) <= 100
    session = verified_session(browser.cookie, key)
    assert session is not None
    assert session.expires == int(now + 100)


def test_revoking_a_token_ends_its_sessions(browser: Browser) -> None:
    browser.sign_in(token(browser.app))
    assert browser("GET", "/v1/jobs").status_code == 200
    store = browser.app.state.context.store
    store.revoke_token(store.tokens()[0].id)
    assert code(browser("GET", "/v1/jobs")) == (401, "access.token-invalid")


def test_sign_out_removes_the_cookie_and_is_idempotent(browser: Browser) -> None:
    browser.sign_in(token(browser.app))
    for _ in range(2):
        answer = browser("DELETE", "/v1/session")
        assert (answer.status_code, morsel(answer)["max-age"], morsel(answer)["path"]) == (204, "0", "/")
    assert code(browser("GET", "/v1/jobs")) == (401, "access.token-missing")


def test_copied_cookie_is_refused_after_sign_out(guarded: FastAPI, client: Client) -> None:
    """The token's other sessions end too; the token itself and sessions of other tokens stay valid."""
    secret, others = token(guarded), token(guarded)
    first, second, stranger, thief = (Browser(guarded, client) for _ in range(4))
    for browser, shown in ((first, secret), (second, secret), (stranger, others)):
        browser.sign_in(shown)
    thief.cookie = first.cookie
    assert thief("GET", "/v1/jobs").status_code == 200
    caller = identify(HTTPConnection(_asked(thief.cookie)), guarded.state.context)
    assert isinstance(caller, Caller)
    assert caller.is_still_valid(guarded.state.context)
    assert first("DELETE", "/v1/session").status_code == 204
    for ended in (thief, second):
        assert code(ended("GET", "/v1/jobs")) == (401, "access.token-invalid")
        assert ended("GET", "/v1/session").json()["signed_in"] is False
    assert not caller.is_still_valid(guarded.state.context)  # the check that ends its streams
    assert stranger("GET", "/v1/jobs").status_code == 200
    by_header = {"Authorization": f"Bearer {secret}"}
    assert client(guarded)("GET", "/v1/jobs", headers=by_header).status_code == 200
    first.sign_in(secret)
    assert first("GET", "/v1/jobs").status_code == 200
    stale = thief.cookie
    assert thief("DELETE", "/v1/session").status_code == 204  # an ended session does not end others
    assert first("GET", "/v1/jobs").status_code == 200
    thief.cookie = stale
    assert code(thief("GET", "/v1/jobs")) == (401, "access.token-invalid")


def _asked(cookie: str) -> dict[str, Any]:
    return {"type": "http", "headers": [(b"cookie", f"slidelift_session={cookie}".encode())]}


def test_changing_requests_require_a_header_that_other_sites_cannot_send(browser: Browser, tiff: bytes) -> None:
    browser.sign_in(token(browser.app))
    for method, url in (("PUT", "/v1/slides/a.svs"), ("POST", "/v1/jobs"), ("DELETE", "/v1/jobs/x")):
        for headers in ({}, {"X-Slidelift": "x"}):
            assert code(browser(method, url, headers=headers, content=tiff)) == (403, "access.cross-site")
    assert browser("PUT", "/v1/slides/a.svs", headers=PAGE, content=tiff).status_code == 201
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert code(browser("DELETE", "/v1/jobs/x", headers=PAGE | elsewhere)) == (403, "access.cross-site")
    assert code(browser("DELETE", "/v1/session", headers=elsewhere)) == (403, "access.cross-site")


def test_cross_site_request_changes_nothing_without_tokens(
    open_app: Callable[..., FastAPI], client: Client, tiff: bytes
) -> None:
    call = client(open_app(cors_origins=("https://viewer.example",)))

    def put(site: str | None, origin: str) -> int:
        headers = {"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {})
        answer = call("PUT", "/v1/slides/a.svs", headers=headers, content=tiff)
        assert answer.status_code == 201 or answer.json()["code"] == "access.cross-site"
        return int(answer.status_code)

    for site in ("cross-site", "same-site"):  # another port of this machine is of the same site
        assert put(site, "https://evil.example") == put(site, "null") == 403
        assert put(site, "https://viewer.example") == 201
    assert put("same-origin", "http://localhost") == put("none", "null") == put(None, "http://localhost") == 201


FOREIGN = (
    "http://evil.example",
    "https://localhost.evil.example",
    "http://localhost:8080",
    "http://localhost@evil.example",
    "http://evil.example/localhost",
    "file://",
    "null",
    "",
)


def test_foreign_origin_is_refused_without_sec_fetch_site(
    open_app: Callable[..., FastAPI], client: Client, browser: Browser, tiff: bytes
) -> None:
    """Browsers do not send Sec-Fetch-Site to plain http addresses."""
    call = client(open_app())
    browser.sign_in(token(browser.app))
    for origin in FOREIGN:
        sent = {"Origin": origin}
        assert code(call("PUT", "/v1/slides/a.svs", headers=sent, content=tiff)) == (403, "access.cross-site"), origin
        for method, url in (("PUT", "/v1/slides/a.svs"), ("POST", "/v1/jobs"), ("POST", "/v1/session")):
            refused = browser(method, url, headers=PAGE | sent, content=tiff)
            assert code(refused) == (403, "access.cross-site"), (origin, url)
        assert code(browser("DELETE", "/v1/session", headers=sent)) == (403, "access.cross-site")
        assert browser("GET", "/v1/jobs", headers=sent).status_code == 200
    by_header = {"Authorization": f"Bearer {token(browser.app)}", "Origin": FOREIGN[0]}
    assert browser("PUT", "/v1/slides/a.svs", headers=by_header, content=tiff).status_code == 201


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        ("http://localhost", {}),
        ("http://LOCALHOST:80", {}),
        ("https://slides.example", {"Host": "slides.example"}),
        ("https://slides.example:443", {"Host": "slides.example"}),
        ("https://slides.example", {"Host": "slides.example:443"}),
        ("http://slides.example:8000", {"Host": "slides.example:8000"}),
        ("https://slides.example", {"Host": "127.0.0.1:8000", "X-Forwarded-Host": "slides.example"}),
        ("https://slides.example", {"Host": "10.0.0.7", "X-Forwarded-Host": "slides.example, inner.example"}),
        ("http://[::1]:8000", {"Host": "[::1]:8000"}),
    ],
)
def test_own_origin_is_accepted_behind_a_proxy(
    browser: Browser, tiff: bytes, origin: str, headers: dict[str, str]
) -> None:
    browser.sign_in(token(browser.app))
    sent = PAGE | headers | {"Origin": origin}
    assert browser("PUT", "/v1/slides/a.svs", headers=sent, content=tiff).status_code == 201
    other = {"Host": "slides.example:8001"}
    assert code(browser("PUT", "/v1/slides/a.svs", headers=PAGE | {"Origin": origin} | other)) == (
        403,
        "access.cross-site",
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_service_without_tokens_accepts_only_local_host_names(
    open_app: Callable[..., FastAPI], client: Client, host: str
) -> None:
    call = client(open_app())
    for method, url in (("GET", "/v1/slides"), ("GET", "/"), ("DELETE", "/v1/slides/x"), ("OPTIONS", "/v1/uploads")):
        assert call(method, url, headers={"Host": host}).status_code == 403
    for here in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert call("GET", "/v1/slides", headers={"Host": here}).status_code == 200
    guarded = client(open_app(auth="on"))
    assert guarded("GET", "/v1/session", headers={"Host": host}).status_code == 200
    assert call("GET", "/v1/jobs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_token_in_the_header_takes_precedence_over_the_cookie(browser: Browser) -> None:
    browser.sign_in(token(browser.app, Scope.READ))
    by_header = {"Authorization": f"Bearer {token(browser.app, Scope.WRITE)}"}
    assert browser("DELETE", "/v1/jobs/x", headers=by_header).json()["code"] == "job.unknown"
    for header in ("Bearer slidelift_0_guess", "Basic eDp5", ""):
        assert browser("GET", "/v1/jobs", headers={"Authorization": header}).status_code == 401


def test_cookie_is_http_only_and_same_site(browser: Browser) -> None:
    secret = token(browser.app)
    plain = morsel(browser.sign_in(secret))
    assert (plain["httponly"], plain["samesite"], plain["path"], plain["secure"]) == (True, "strict", "/", "")
    assert int(plain["max-age"]) <= SESSION_SECONDS
    assert plain["domain"] == ""
    assert morsel(browser.sign_in(secret, "https://test/v1/session"))["secure"] is True


def test_token_appears_in_no_response_and_no_log(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    secret = token(browser.app)
    kept = secret.split("_", 2)[2]
    with caplog.at_level(logging.DEBUG):
        answers = [browser.sign_in(secret), browser("GET", "/v1/session"), browser("GET", "/v1/jobs")]
        answers += [browser("POST", "/v1/jobs", json={}), browser("POST", "/v1/session", json={"token": [secret]})]
        cookie = browser.cookie
        browser.cookie += "x"
        answers += [browser("GET", "/v1/jobs")]
    responses = "".join(answer.text + str(answer.headers) for answer in answers)
    written = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert kept not in responses + written
    assert cookie not in written
    assert cookie not in "".join(answer.text for answer in answers)
    metrics = browser.app.state.context.counters
    assert kept.encode() not in b"".join(str(one).encode() for one in metrics.registry.collect())


def test_session_sees_only_its_own_slides_and_jobs(guarded: FastAPI, client: Client, tiff: bytes) -> None:
    mine, other = Browser(guarded, client), Browser(guarded, client)
    secret = token(guarded)
    mine.sign_in(secret)
    other.sign_in(token(guarded))
    slide = mine("PUT", "/v1/slides/a.svs", headers=PAGE, content=tiff).json()["id"]
    assert code(other("GET", f"/v1/slides/{slide}")) == (404, "slide.unknown")
    by_header = {"Authorization": f"Bearer {secret}"}
    assert client(guarded)("GET", f"/v1/slides/{slide}", headers=by_header).status_code == 200


def test_sessions_are_valid_in_all_processes_of_a_data_folder(open_app: Callable[..., FastAPI], client: Client) -> None:
    first, second = Browser(open_app(auth="on"), client), Browser(open_app(auth="on"), client)
    first.sign_in(token(first.app))
    second.cookie = first.cookie
    assert second("GET", "/v1/jobs").status_code == 200
    key = first.app.state.context.settings.data_dir / KEY_FILE
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    assert code(second("GET", "/v1/jobs")) == (401, "access.token-invalid")


def test_cookie_path_is_the_prefix_of_the_service(open_app: Callable[..., FastAPI], client: Client) -> None:
    browser = Browser(open_app(auth="on", root_path="/apps/slidelift"), client)
    for shown in ("", "/apps/slidelift"):  # whether or not the proxy removes it
        answer = browser.sign_in(token(browser.app), f"{shown}/v1/session")
        assert morsel(answer)["path"] == "/apps/slidelift/"
        assert browser("GET", f"{shown}/v1/jobs").status_code == 200


def test_concurrent_first_sign_ins_make_one_key(tmp_path: Path) -> None:
    for round_ in range(5):
        folder = tmp_path / str(round_)
        folder.mkdir()
        with ThreadPoolExecutor(8) as pool:
            keys = set(pool.map(lambda _, folder=folder: read_or_make_key(folder), range(16)))
        assert keys == {read_key(folder)}
        assert [path.name for path in folder.iterdir()] == [KEY_FILE]


def test_invalid_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"")
    assert read_key(tmp_path) is None
    with pytest.raises(ServiceError, match="delete it"):
        read_or_make_key(tmp_path)
