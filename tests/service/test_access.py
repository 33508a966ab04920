"""Access control: tokens, scopes, owners, quotas."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from slidelift.service.auth.tokens import Scope, new_token
from slidelift.service.settings import Settings

ADDRESSES = [
    ("GET", "/v1/slides"),
    ("PUT", "/v1/slides/a.svs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("DELETE", "/v1/jobs/x"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/nowhere"),
]


class Guarded:
    """An application that requires tokens, and requests with a token."""

    def __init__(self, app: FastAPI, client: Callable[[FastAPI], Any]) -> None:
        self.app, self._call = app, client(app)

    def token(self, *scopes: Scope, **limits: Any) -> str:
        token, secret = new_token("lab", frozenset(scopes), time.time(), **limits)
        self.app.state.context.store.add_token(token)
        return secret

    def __call__(self, secret: str | None, method: str, url: str, **options: Any) -> httpx.Response:
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {secret}"} if secret else {})
        return self._call(method, url, headers=headers, **options)


@pytest.fixture
def guarded(open_app: Callable[..., FastAPI], client: Callable[[FastAPI], Any]) -> Guarded:
    return Guarded(open_app(auth="on", max_jobs_per_token=2, max_bytes_per_token=1000, max_queue=3), client)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize(("method", "url"), ADDRESSES)
def test_requests_without_a_token_are_refused(guarded: Guarded, method: str, url: str) -> None:
    answer = guarded(None, method, url)
    assert code(answer) == (401, "access.token-missing")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert code(guarded("slidelift_0_guess", method, url)) == (401, "access.token-invalid")


def test_body_of_a_refused_upload_is_not_read(guarded: Guarded) -> None:
    async def body() -> Any:
        raise AssertionError("the body was read")
        yield b""

    assert code(guarded(None, "PUT", "/v1/slides/a.svs", content=body())) == (401, "access.token-missing")


def test_health_and_documentation_need_no_token(guarded: Guarded) -> None:
    for url in ("/health/live", "/openapi.json", "/docs"):
        assert guarded(None, "GET", url).status_code == 200
    assert guarded(None, "GET", "/health/ready").status_code == 503


def test_service_without_tokens_does_not_listen_on_the_network() -> None:
    assert not Settings().asks_for_tokens
    for host in ("0.0.0.0", "::", "192.168.1.7", "slides.hospital.example"):
        assert Settings(host=host).asks_for_tokens
    with pytest.raises(ValueError, match="auth"):
        Settings(auth="off")  # type: ignore[arg-type]


def test_token_is_limited_to_its_scopes(guarded: Guarded) -> None:
    reader, writer = guarded.token(Scope.READ), guarded.token(Scope.WRITE)
    assert guarded(reader, "GET", "/v1/slides").status_code == 200
    assert code(guarded(reader, "PUT", "/v1/slides/a.svs", content=b"II*\0")) == (403, "access.scope")
    assert guarded(writer, "PUT", "/v1/slides/a.svs", content=b"II*\0").status_code == 201
    assert code(guarded(writer, "GET", "/v1/slides")) == (403, "access.scope")
    assert code(guarded(reader, "GET", "/metrics")) == (403, "access.scope")
    assert guarded(guarded.token(Scope.ADMIN), "GET", "/metrics").status_code == 200


def test_expired_or_revoked_token_is_refused(guarded: Guarded) -> None:
    late = guarded.token(Scope.READ, expires=time.time() - 1)
    assert code(guarded(late, "GET", "/v1/slides")) == (401, "access.token-invalid")
    secret = guarded.token(Scope.READ)
    assert guarded(secret, "GET", "/v1/slides").status_code == 200
    guarded.app.state.context.store.revoke_token(guarded.app.state.context.store.tokens()[-1].id)
    assert code(guarded(secret, "GET", "/v1/slides")) == (401, "access.token-invalid")


def test_only_a_hash_of_the_token_is_stored(guarded: Guarded) -> None:
    secret = guarded.token(Scope.READ)
    folder = guarded.app.state.context.settings.data_dir
    kept = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert guarded.app.state.context.store.tokens()[0].sha256.encode() in kept
    assert secret.split("_", 2)[2].encode() not in kept


def test_slides_and_jobs_of_others_are_unknown(guarded: Guarded) -> None:
    mine, other = (guarded.token(Scope.READ, Scope.WRITE) for _ in range(2))
    admin = guarded.token(Scope.ADMIN)
    slide = guarded(mine, "PUT", "/v1/slides/a.svs", content=b"II*\0").json()["id"]
    job = guarded(mine, "POST", "/v1/jobs", json={"slide": slide}).json()["id"]
    batch = guarded(mine, "POST", "/v1/batches", json={"slides": [slide]}).json()["id"]
    assert code(guarded(other, "GET", f"/v1/slides/{slide}")) == (404, "slide.unknown")
    assert code(guarded(other, "DELETE", f"/v1/slides/{slide}")) == (404, "slide.unknown")
    assert code(guarded(other, "POST", "/v1/jobs", json={"slide": slide})) == (404, "slide.unknown")
    for method, rest in [
        *(("GET", rest) for rest in ("", "/result", "/report", "/events")),
        *(("POST", rest) for rest in ("/pause", "/resume", "/retry")),
        *(("DELETE", rest) for rest in ("", "/result")),
    ]:
        assert code(guarded(other, method, f"/v1/jobs/{job}{rest}")) == (404, "job.unknown"), (method, rest)
    for method in ("GET", "DELETE"):
        assert code(guarded(other, method, f"/v1/batches/{batch}")) == (404, "batch.unknown")
    assert (
        guarded(other, "GET", "/v1/jobs").json()["jobs"] == guarded(other, "GET", "/v1/slides").json()["slides"] == []
    )
    assert len(guarded(admin, "GET", "/v1/jobs").json()["jobs"]) == 2
    assert guarded(admin, "GET", f"/v1/slides/{slide}").status_code == 200
    assert guarded(admin, "DELETE", f"/v1/jobs/{job}").status_code == 200


def test_quota_of_unfinished_jobs_and_queue_limit(guarded: Guarded) -> None:
    first, second = (guarded.token(Scope.READ, Scope.WRITE) for _ in range(2))
    patient = guarded.token(Scope.READ, Scope.WRITE, max_jobs=9)
    slides = {
        token: guarded(token, "PUT", "/v1/slides/a.svs", content=b"II*\0").json()["id"]
        for token in (first, second, patient)
    }

    def ask(token: str) -> httpx.Response:
        return guarded(token, "POST", "/v1/jobs", json={"slide": slides[token]})

    jobs = [ask(first).json()["id"] for _ in range(2)]
    refused = ask(first)
    assert code(refused) == (429, "quota.jobs")
    assert int(refused.headers["retry-after"]) > 0
    assert ask(second).status_code == 202
    full = ask(patient)
    assert code(full) == (429, "queue.full")
    assert int(full.headers["retry-after"]) > 0
    guarded(first, "DELETE", f"/v1/jobs/{jobs[0]}")
    assert ask(patient).status_code == 202
    assert code(guarded(first, "POST", f"/v1/jobs/{jobs[0]}/retry")) == (429, "queue.full")


def test_quota_of_bytes(guarded: Guarded) -> None:
    token, roomy = guarded.token(Scope.READ, Scope.WRITE), guarded.token(Scope.READ, Scope.WRITE, max_bytes=10_000)
    small, large = b"II*\0" + bytes(596), b"II*\0" + bytes(2000)
    assert guarded(token, "PUT", "/v1/slides/a.svs", content=small).status_code == 201
    for body in (small, iter([small])):  # with and without Content-Length
        refused = guarded(token, "PUT", "/v1/slides/b.svs", content=_sent(body))
        assert code(refused) == (429, "quota.bytes")
    assert guarded(roomy, "PUT", "/v1/slides/b.svs", content=large).status_code == 201
    assert len(guarded(token, "GET", "/v1/slides").json()["slides"]) == 1


def test_unfinished_uploads_count_with_their_announced_size(guarded: Guarded) -> None:
    token = guarded.token(Scope.READ, Scope.WRITE)

    def begin(size: int) -> httpx.Response:
        named = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size), "Upload-Metadata": "filename YS5zdnM="}
        return guarded(token, "POST", "/v1/uploads", headers=named)

    first = begin(900)
    assert first.status_code == 201
    assert code(begin(200)) == (429, "quota.bytes")
    assert guarded(token, "DELETE", first.headers["location"]).status_code == 204
    assert begin(200).status_code == 201


def _sent(body: Any) -> Any:
    if isinstance(body, bytes):
        return body

    async def chunks() -> Any:
        for chunk in body:
            yield chunk

    return chunks()
