"""Signing in from a browser: what the cookie opens, what ends it, and what it never gives away."""

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
    """Keeps the cookie that it was sent, and shows it."""

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


def test_signing_in_gives_what_the_token_may_and_no_more(guarded: FastAPI, client: Client) -> None:
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


def test_a_session_tells_whom_it_is_of(browser: Browser, open_app: Callable[..., FastAPI], client: Client) -> None:
    stranger = {"needed": True, "signed_in": False, "name": None, "scopes": [], "expires": None}
    assert browser("GET", "/v1/session").json() == stranger
    browser.sign_in(token(browser.app, Scope.ADMIN))
    answer = browser("GET", "/v1/session")
    said = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (said["signed_in"], said["name"], said["scopes"]) == (True, "lab", ["read", "write", "admin"])
    assert said["expires"].endswith("Z")
    browser.cookie = "x"
    assert browser("GET", "/v1/session").json() == stranger
    by_header = {"Authorization": f"Bearer {token(browser.app, Scope.READ)}"}
    said = browser("GET", "/v1/session", headers=by_header).json()
    assert said == {"needed": True, "signed_in": True, "name": "lab", "scopes": ["read"], "expires": None}
    everybody = client(open_app())("GET", "/v1/session").json()
    assert everybody == {**stranger, "needed": False, "signed_in": True, "scopes": ["read", "write", "admin"]}


def test_a_wrong_token_begins_no_session(browser: Browser) -> None:
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


def test_only_json_signs_in_which_a_form_of_another_site_can_not_send(browser: Browser) -> None:
    body = f'{{"token": "{token(browser.app)}"}}'.encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"Content-Type": content_type} if content_type else {}
        answer = browser("POST", "/v1/session", content=body, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (422, False)


def test_a_cookie_that_was_changed_or_sealed_elsewhere_opens_nothing(browser: Browser, tmp_path: Path) -> None:
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


def test_a_session_ends_after_its_hours_and_never_later_than_its_token(browser: Browser) -> None:
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


def test_a_revoked_token_ends_its_sessions_at_once(browser: Browser) -> None:
    browser.sign_in(token(browser.app))
    assert browser("GET", "/v1/jobs").status_code == 200
    store = browser.app.state.context.store
    store.revoke_token(store.tokens()[0].id)
    assert code(browser("GET", "/v1/jobs")) == (401, "access.token-invalid")


def test_signing_out_removes_the_cookie_and_may_be_done_twice(browser: Browser) -> None:
    browser.sign_in(token(browser.app))
    for _ in range(2):
        answer = browser("DELETE", "/v1/session")
        assert (answer.status_code, morsel(answer)["max-age"], morsel(answer)["path"]) == (204, "0", "/")
    assert code(browser("GET", "/v1/jobs")) == (401, "access.token-missing")


def test_a_copied_cookie_is_refused_after_its_owner_has_signed_out(guarded: FastAPI, client: Client) -> None:
    """And so are the token's other sessions; the token itself, and other tokens' sessions, go on."""
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
    assert not caller.is_still_valid(guarded.state.context)  # its streams end
    assert stranger("GET", "/v1/jobs").status_code == 200
    by_header = {"Authorization": f"Bearer {secret}"}
    assert client(guarded)("GET", "/v1/jobs", headers=by_header).status_code == 200
    first.sign_in(secret)
    assert first("GET", "/v1/jobs").status_code == 200
    stale = thief.cookie
    assert thief("DELETE", "/v1/session").status_code == 204  # with a session that is over nobody else's ends
    assert first("GET", "/v1/jobs").status_code == 200
    thief.cookie = stale
    assert code(thief("GET", "/v1/jobs")) == (401, "access.token-invalid")


def _asked(cookie: str) -> dict[str, Any]:
    return {"type": "http", "headers": [(b"cookie", f"slidelift_session={cookie}".encode())]}


def test_what_changes_something_takes_a_header_that_other_sites_can_not_send(browser: Browser, tiff: bytes) -> None:
    browser.sign_in(token(browser.app))
    for method, url in (("PUT", "/v1/slides/a.svs"), ("POST", "/v1/jobs"), ("DELETE", "/v1/jobs/x")):
        for headers in ({}, {"X-Slidelift": "x"}):
            assert code(browser(method, url, headers=headers, content=tiff)) == (403, "access.cross-site")
    assert browser("PUT", "/v1/slides/a.svs", headers=PAGE, content=tiff).status_code == 201
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert code(browser("DELETE", "/v1/jobs/x", headers=PAGE | elsewhere)) == (403, "access.cross-site")
    assert code(browser("DELETE", "/v1/session", headers=elsewhere)) == (403, "access.cross-site")


def test_a_page_of_another_site_changes_nothing_in_a_service_without_tokens(
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


def test_an_origin_of_another_site_is_refused_where_the_browser_sends_nothing_else(
    open_app: Callable[..., FastAPI], client: Client, browser: Browser, tiff: bytes
) -> None:
    """Browsers send no Sec-Fetch-Site to a plain http address."""
    call = client(open_app())
    browser.sign_in(token(browser.app))
    for origin in FOREIGN:
        said = {"Origin": origin}
        assert code(call("PUT", "/v1/slides/a.svs", headers=said, content=tiff)) == (403, "access.cross-site"), origin
        for method, url in (("PUT", "/v1/slides/a.svs"), ("POST", "/v1/jobs"), ("POST", "/v1/session")):
            refused = browser(method, url, headers=PAGE | said, content=tiff)
            assert code(refused) == (403, "access.cross-site"), (origin, url)
        assert code(browser("DELETE", "/v1/session", headers=said)) == (403, "access.cross-site")
        assert browser("GET", "/v1/jobs", headers=said).status_code == 200
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
def test_the_services_own_origin_is_that_of_its_name_also_behind_a_proxy(
    browser: Browser, tiff: bytes, origin: str, headers: dict[str, str]
) -> None:
    browser.sign_in(token(browser.app))
    said = PAGE | headers | {"Origin": origin}
    assert browser("PUT", "/v1/slides/a.svs", headers=said, content=tiff).status_code == 201
    other = {"Host": "slides.example:8001"}
    assert code(browser("PUT", "/v1/slides/a.svs", headers=PAGE | {"Origin": origin} | other)) == (
        403,
        "access.cross-site",
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_service_without_tokens_answers_to_names_of_this_machine_alone(
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


def test_a_token_in_the_header_counts_and_not_the_cookie(browser: Browser) -> None:
    browser.sign_in(token(browser.app, Scope.READ))
    by_header = {"Authorization": f"Bearer {token(browser.app, Scope.WRITE)}"}
    assert browser("DELETE", "/v1/jobs/x", headers=by_header).json()["code"] == "job.unknown"
    for header in ("Bearer slidelift_0_guess", "Basic eDp5", ""):
        assert browser("GET", "/v1/jobs", headers={"Authorization": header}).status_code == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(browser: Browser) -> None:
    secret = token(browser.app)
    plain = morsel(browser.sign_in(secret))
    assert (plain["httponly"], plain["samesite"], plain["path"], plain["secure"]) == (True, "strict", "/", "")
    assert int(plain["max-age"]) <= SESSION_SECONDS
    assert plain["domain"] == ""
    assert morsel(browser.sign_in(secret, "https://test/v1/session"))["secure"] is True


def test_the_token_stands_in_no_answer_and_in_no_log(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    secret = token(browser.app)
    kept = secret.split("_", 2)[2]
    with caplog.at_level(logging.DEBUG):
        answers = [browser.sign_in(secret), browser("GET", "/v1/session"), browser("GET", "/v1/jobs")]
        answers += [browser("POST", "/v1/jobs", json={}), browser("POST", "/v1/session", json={"token": [secret]})]
        cookie = browser.cookie
        browser.cookie += "x"
        answers += [browser("GET", "/v1/jobs")]
    told = "".join(answer.text + str(answer.headers) for answer in answers)
    written = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert kept not in told + written
    assert cookie not in written
    assert cookie not in "".join(answer.text for answer in answers)
    metrics = browser.app.state.context.counters
    assert kept.encode() not in b"".join(str(one).encode() for one in metrics.registry.collect())


def test_what_is_anothers_does_not_exist_by_cookie_either(guarded: FastAPI, client: Client, tiff: bytes) -> None:
    mine, other = Browser(guarded, client), Browser(guarded, client)
    secret = token(guarded)
    mine.sign_in(secret)
    other.sign_in(token(guarded))
    slide = mine("PUT", "/v1/slides/a.svs", headers=PAGE, content=tiff).json()["id"]
    assert code(other("GET", f"/v1/slides/{slide}")) == (404, "slide.unknown")
    by_header = {"Authorization": f"Bearer {secret}"}
    assert client(guarded)("GET", f"/v1/slides/{slide}", headers=by_header).status_code == 200


def test_all_processes_of_a_data_folder_know_its_sessions(open_app: Callable[..., FastAPI], client: Client) -> None:
    first, second = Browser(open_app(auth="on"), client), Browser(open_app(auth="on"), client)
    first.sign_in(token(first.app))
    second.cookie = first.cookie
    assert second("GET", "/v1/jobs").status_code == 200
    key = first.app.state.context.settings.data_dir / KEY_FILE
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    assert code(second("GET", "/v1/jobs")) == (401, "access.token-invalid")


def test_a_session_stays_under_the_prefix_of_its_service(open_app: Callable[..., FastAPI], client: Client) -> None:
    browser = Browser(open_app(auth="on", root_path="/apps/slidelift"), client)
    for shown in ("", "/apps/slidelift"):  # whether or not the proxy takes it away
        answer = browser.sign_in(token(browser.app), f"{shown}/v1/session")
        assert morsel(answer)["path"] == "/apps/slidelift/"
        assert browser("GET", f"{shown}/v1/jobs").status_code == 200


def test_those_who_sign_in_first_at_once_make_one_key(tmp_path: Path) -> None:
    for round_ in range(5):
        folder = tmp_path / str(round_)
        folder.mkdir()
        with ThreadPoolExecutor(8) as pool:
            keys = set(pool.map(lambda _, folder=folder: read_or_make_key(folder), range(16)))
        assert keys == {read_key(folder)}
        assert [path.name for path in folder.iterdir()] == [KEY_FILE]


def test_a_key_that_is_none_seals_nothing(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"")
    assert read_key(tmp_path) is None
    with pytest.raises(ServiceError, match="delete it"):
        read_or_make_key(tmp_path)
