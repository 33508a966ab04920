"""Python client against the API as a process, with broken connections and a killed service."""

import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from slidelift.service.auth.tokens import Scope, new_token
from slidelift.service.client import (
    Client,
    IntegrityError,
    Job,
    ServiceRefusedError,
    UnexpectedAnswerError,
    UnreachableError,
    UnusableError,
    job_events,
)
from slidelift.service.client.upload_source import open_source
from slidelift.service.errors import problem
from slidelift.service.jobs.job import JobState, Outcome, Result
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.jobs.sqlite import Sqlite
from slidelift.service.pipeline.progress import Progress, Stage

SCRIPT = Path(__file__).with_name("serve_for_tests.py")
CONTENT = random.Random(0).randbytes(6 * 2**20)
TOKEN = "slidelift_never-to-be-seen"


class Api:
    """API process with a fake probe, which can be killed and restarted on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> "Api":
        given = {"PYTHONPATH": str(SCRIPT.parents[2]), "PATH": "/usr/bin:/bin", **environment}
        with (self.folder.parent / "api.log").open("ab") as log:
            command = [sys.executable, SCRIPT, self.folder, str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=given)
        for _ in range(300):
            try:
                httpx.get(f"{self.address}/health/live")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return self
        raise AssertionError((self.folder.parent / "api.log").read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def store(self) -> SqlStore:
        return SqlStore(Sqlite(self.folder / "slidelift.sqlite3"))

    def succeed(self, job_id: str, content: bytes = CONTENT) -> None:
        """Finish a job as a worker does."""
        store = self.store
        claimed = None
        while claimed is None or claimed.id != job_id:  # skip jobs that other tests left in the queue
            claimed = store.claim("w")
            assert claimed is not None
        folder = self.folder / "jobs" / job_id / f"attempt-{claimed.attempt}"
        folder.mkdir(parents=True)
        (folder / "result.ome.tiff").write_bytes(content)
        (folder / "report.json").write_text('{"seconds": 1}')
        result = Result("result.ome.tiff", len(content), hashlib.sha256(content).hexdigest())
        store.settle(job_id, claimed.attempt, Outcome(JobState.SUCCEEDED, result=result))
        store.close()


class FlakyProxy:
    """TCP proxy that breaks connections.

    Parameters
    ----------
    budgets
        Bytes, in both directions together, after which each of the first connections is reset.
    lost
        Texts of requests whose response is dropped with the connection, once for each text.
    held
        Text of requests whose response never arrives, while the connection stays open.
    """

    def __init__(
        self, port: int, budgets: tuple[int, ...] = (), lost: tuple[bytes, ...] = (), held: bytes = b""
    ) -> None:
        self._port, self._budgets, self._lost, self._held = port, list(budgets), list(lost), held
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = self.bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                near.close()
                continue
            self.connections += 1
            state = {"left": self._budgets.pop(0) if self._budgets else 2**60, "deaf": False, "lose": False}
            for source, target, is_answer in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=(source, target, state, is_answer), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, state: dict[str, Any], is_answer: bool) -> None:
        try:
            while piece := source.recv(65536):
                if not is_answer:
                    state["deaf"] |= bool(self._held) and self._held in piece
                    for word in [word for word in self._lost if word in piece]:
                        self._lost.remove(word)
                        state["lose"] = True
                elif state["lose"]:
                    break
                elif state["deaf"]:
                    continue
                state["left"] -= len(piece)
                if state["left"] < 0:
                    break
                self.bytes += len(piece)
                target.sendall(piece)
        except OSError:
            pass
        for end in (source, target):
            end.close() if state["left"] >= 0 and not state["lose"] else reset(end)


def reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("shared") / "data").start()
    yield api
    api.kill()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """API for one test, which may kill it or count its slides."""
    api = Api(tmp_path / "data").start()
    yield api
    api.kill()


@pytest.fixture
def proxy() -> Iterator[Callable[..., FlakyProxy]]:
    made: list[FlakyProxy] = []

    def make(*arguments: Any, **options: Any) -> FlakyProxy:
        made.append(FlakyProxy(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(address: str, token: str | None = None, retry_seconds: float = 20, **options: Any) -> Client:
        folder = tmp_path / "state"
        made.append(Client(address, token, retry_seconds=retry_seconds, state_folder=folder, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / f"{tmp_path.name} – Größe und Maß #1?.svs"
    path.write_bytes(CONTENT)
    return path


def budgets(seed: int, count: int) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(1000, 2**20) for _ in range(count))


@pytest.mark.parametrize("seed", [1])
def test_an_upload_over_broken_connections_is_stored_completely_and_once(
    shared_api, proxy, connect, slide, seed
) -> None:
    broken = proxy(shared_api.port, budgets(seed, 4))
    before = {one.id for one in connect(shared_api.address).slides()}
    values = []
    uploaded = connect(broken.address).upload(slide, on_progress=lambda arrived, total: values.append((arrived, total)))
    assert (uploaded.name, uploaded.bytes) == (slide.name, len(CONTENT))
    assert uploaded.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert broken.connections > 4
    assert values[-1] == (len(CONTENT), len(CONTENT))
    assert {one.id for one in connect(shared_api.address).slides()} - before == {uploaded.id}


def test_a_lost_response_to_an_upload_creates_no_second_slide(shared_api, proxy, connect, slide) -> None:
    before = {one.id for one in connect(shared_api.address).slides()}
    deaf = proxy(shared_api.port, lost=(b"PUT /v1/slides",))
    uploaded = connect(deaf.address).upload(slide)
    assert {one.id for one in connect(shared_api.address).slides()} - before == {uploaded.id}


def test_a_lost_response_to_submit_creates_no_second_job(shared_api, proxy, connect, slide) -> None:
    slide_id = connect(shared_api.address).upload(slide).id
    deaf = proxy(shared_api.port, lost=(b"POST /v1/jobs", b"POST /v1/jobs"))
    job = connect(deaf.address).submit(slide_id, model="bicubic", region=(0, 0, 32, 32))
    assert (job.state, job.region) == ("queued", (0, 0, 32, 32))
    assert [one.id for one in connect(shared_api.address).jobs(slide=slide_id)] == [job.id]
    again = connect(shared_api.address).submit(slide_id, idempotency_key="mine")
    assert connect(shared_api.address).submit(slide_id, idempotency_key="mine").id == again.id != job.id


@pytest.mark.parametrize("seed", [3])
def test_a_download_over_broken_connections_is_continued(shared_api, proxy, connect, slide, tmp_path, seed) -> None:
    client = connect(shared_api.address)
    job = client.submit(client.upload(slide).id)
    shared_api.succeed(job.id)
    broken = proxy(shared_api.port, budgets(seed, 6))
    result = connect(broken.address).download(job.id, tmp_path / "ergebnis – 1.ome.tiff")
    assert result.read_bytes() == CONTENT
    assert broken.connections > 6
    assert broken.bytes < 1.3 * len(CONTENT)
    assert not result.with_name(f"{result.name}.part").exists()


def test_another_process_continues_a_download_of_the_same_result_only(
    shared_api, proxy, connect, slide, tmp_path
) -> None:
    client = connect(shared_api.address)
    job = client.submit(client.upload(slide).id)
    shared_api.succeed(job.id)
    target, part = tmp_path / "r.ome.tiff", tmp_path / "r.ome.tiff.part"
    counted = proxy(shared_api.port)
    part.write_bytes(CONTENT[: 5 * 2**20])
    assert connect(counted.address).download(job.id, target).read_bytes() == CONTENT
    assert counted.bytes < 2 * 2**20
    for other in (b"of another result", b"longer" * len(CONTENT)):
        part.write_bytes(other)
        assert client.download(job.id, target, overwrite=True).read_bytes() == CONTENT
    with pytest.raises(UnusableError, match="already exists"):
        client.download(job.id, target)
    assert client.report(job.id) == {"seconds": 1}


def test_a_changed_result_is_refused_and_leaves_no_file(shared_api, connect, slide, tmp_path) -> None:
    client = connect(shared_api.address)
    job = client.submit(client.upload(slide).id)
    shared_api.succeed(job.id)
    stored = shared_api.folder / "jobs" / job.id / "attempt-1" / "result.ome.tiff"
    stored.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="SHA-256"):
        client.download(job.id, tmp_path / "r.ome.tiff")
    assert [path for path in tmp_path.iterdir() if path.name.startswith("r.ome")] == []


def test_download_without_a_result_raises_the_reason(shared_api, connect, slide, tmp_path) -> None:
    client = connect(shared_api.address)
    job = client.submit(client.upload(slide).id)
    for request in (lambda: client.download(job.id, tmp_path / "r"), lambda: client.report(job.id)):
        with pytest.raises(ServiceRefusedError) as refused:
            request()
        assert refused.value.problem.code == "job.not-finished"
    client.cancel(job.id)
    with pytest.raises(ServiceRefusedError) as unknown:
        client.job("no such/job?")
    assert (unknown.value.problem.status, unknown.value.problem.exit_code) == (404, 2)


def test_follow_survives_kill_9_of_the_service(api, connect, slide) -> None:
    client = connect(api.address)
    job = client.submit(client.upload(slide).id)
    seen: list[Job] = []

    def disturb() -> None:
        api.kill()
        time.sleep(1)
        api.start()
        store = api.store
        claimed = store.claim("w")
        store.advance(job.id, claimed.attempt, Progress(Stage.UPSCALING, 3, 9, 2.0, 3.0))
        time.sleep(0.6)
        store.settle(job.id, claimed.attempt, Outcome(JobState.FAILED, problem("slide.unreadable", "no tile")))
        store.close()

    threading.Timer(0.5, disturb).start()
    ended = client.follow(job.id, seen.append)
    assert (ended.state, ended.error.code, ended.error.exit_code) == ("failed", "slide.unreadable", 2)
    assert [one.revision for one in seen] == sorted({one.revision for one in seen})
    assert seen[0].state == "queued"
    assert (9, "upscaling") in [(one.progress.tiles_total, one.stage) for one in seen]


def test_follow_falls_back_to_polling_if_events_are_buffered(shared_api, proxy, connect, slide, monkeypatch) -> None:
    monkeypatch.setattr(job_events, "_SILENCE_SECONDS", 0.5)
    client = connect(shared_api.address)
    job = client.submit(client.upload(slide).id)
    holding = proxy(shared_api.port, held=b"/events")
    threading.Timer(1.5, shared_api.succeed, [job.id, b"x"]).start()
    assert connect(holding.address).follow(job.id).state == "succeeded"


def test_a_repeated_state_change_is_no_error(shared_api, connect, slide) -> None:
    client = connect(shared_api.address)
    job = client.submit(client.upload(slide).id)
    for move, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued")):
        assert [getattr(client, move)(job.id).state for _ in range(2)] == [state, state]
    shared_api.succeed(job.id, b"x")
    with pytest.raises(ServiceRefusedError) as refused:
        client.cancel(job.id)
    assert refused.value.problem.code == "job.state"


def test_iterators_read_all_pages(api, connect, slide, monkeypatch) -> None:
    client = connect(api.address)
    slide_id = client.upload(slide).id
    made = [client.submit(slide_id, model="bicubic").id for _ in range(105)]
    client.cancel(made[0])
    assert [job.id for job in client.jobs()] == made[::-1]
    assert [job.id for job in client.jobs(state="cancelled", slide=slide_id)] == made[:1]
    assert [job.id for job in client.jobs(slide="nö&state=queued")] == []
    with pytest.raises(ServiceRefusedError) as refused:
        client.delete_slide(slide_id)
    assert refused.value.problem.code == "slide.in-use"
    assert "compact-x4" in [model.name for model in client.models()]


def test_a_token_gives_access_and_is_never_printed(api, connect, slide, caplog, monkeypatch) -> None:
    api.kill()
    token, secret = new_token("lab", frozenset({Scope.READ}), time.time())
    store = api.store
    store.add_token(token)
    store.close()
    # SLIDELIFT_TOKEN and SLIDELIFT_SERVICE are variables of the client; the service ignores them.
    api.start(SLIDELIFT_AUTH="on", SLIDELIFT_TOKEN=TOKEN, SLIDELIFT_SERVICE="http://elsewhere")
    caplog.set_level(logging.DEBUG)
    for given, code in ((None, "access.token-missing"), (TOKEN, "access.token-invalid")):
        client = connect(api.address, given)
        with pytest.raises(ServiceRefusedError) as refused:
            list(client.jobs())
        assert refused.value.problem.code == code
        assert TOKEN not in f"{client!r}{refused.value!r}{refused.value.problem}{refused.value.__cause__!r}"
    assert list(connect(api.address, secret).jobs()) == []
    with pytest.raises(ServiceRefusedError, match="scope write"):
        connect(api.address, secret).upload(slide)
    with pytest.raises(UnusableError) as unusable:
        connect(api.address, f"{TOKEN}\nInjected: header")
    assert TOKEN not in str(unusable.value)
    assert TOKEN not in caplog.text
    assert secret not in caplog.text


def test_errors_name_wrong_addresses_and_files(connect, tmp_path, proxy, slide) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="does not answer"):
        list(connect(nowhere, retry_seconds=300).jobs())
    assert time.monotonic() - started < 6
    for odd in ("localhost:8000", "http://127.0.0.1:notaport", "http://[::1", "http://a..b", f"http://{'a' * 300}"):
        with pytest.raises((UnusableError, UnreachableError)):
            list(connect(odd, retry_seconds=1).jobs())
    with pytest.raises(UnusableError, match="user or a password"):
        connect("http://lab:secret@localhost")
    with pytest.raises(UnusableError, match="no such file"):
        connect(nowhere).upload(tmp_path / "none.svs")
    (tmp_path / "empty.svs").touch()
    with pytest.raises(UnusableError, match="is empty"):
        connect(nowhere).upload(tmp_path / "empty.svs")
    other = FakeServer(lambda request: (200, {}, b"<html>"))
    with pytest.raises(UnexpectedAnswerError, match="slidelift service"):
        list(connect(other.address).jobs())
    other.answer = lambda request: (301, {"Location": "https://elsewhere/"}, b"")
    with pytest.raises(ServiceRefusedError, match="https://elsewhere/"):
        list(connect(other.address, TOKEN).jobs())
    other.close()


def test_members_of_a_newer_service_are_ignored(connect) -> None:
    level = {"width": 1, "height": 1, "downsample": 1.0, "new": 1}
    values = {
        **dict.fromkeys(("objective", "vendor")),
        **dict.fromkeys(("width", "height", "bytes"), 1),
        "id": "s",
        "name": "ü.svs",
        "sha256": "0",
        "mpp": [0.5, 0.5],
        "levels": [level],
        "warnings": [],
        "created": "2026-01-01T00:00:00Z",
        "new": {"any": []},
    }
    other = FakeServer(lambda request: (200, {}, json.dumps(values).encode()))
    slide = connect(other.address).slide("s")
    assert (slide.mpp, slide.levels[0].width, slide.created.year) == ((0.5, 0.5), 1, 2026)
    del values["sha256"]
    with pytest.raises(UnexpectedAnswerError, match="sha256"):
        connect(other.address).slide("s")
    other.close()


def test_addresses_in_responses_are_used_with_the_services_host_only(connect) -> None:
    requests = []

    def answer(request: "Request") -> "Answer":
        requests.append((request.path, request.headers.get("authorization")))
        page = {"jobs": [], "next": None if len(requests) > 1 else "http://elsewhere:1/prefix/v1/jobs?before=7"}
        return 200, {}, json.dumps(page).encode()

    other = FakeServer(answer)
    assert list(connect(f"{other.address}/prefix/", TOKEN).jobs(state="queued")) == []
    assert requests == [
        (path, f"Bearer {TOKEN}") for path in ("/prefix/v1/jobs?state=queued", "/prefix/v1/jobs?before=7")
    ]
    other.close()


def test_a_busy_service_is_retried_after_the_time_that_it_states(connect) -> None:
    refusals = [(429, "queue.full", "1"), (503, "store.unavailable", "1")]
    messages: list[str] = []

    def answer(request: "Request") -> "Answer":
        if not refusals:
            return 200, {}, b'{"jobs": [], "next": null}'
        status, code, seconds = refusals.pop(0)
        return status, {"Retry-After": seconds}, refusal(status, code)

    other = FakeServer(answer)
    started = time.monotonic()
    assert list(connect(other.address, on_wait=messages.append).jobs()) == []
    assert time.monotonic() - started > 1.9
    assert ["queue.full" in messages[0], "trying again in 1 s" in messages[1]] == [True, True]
    refusals.extend([(429, "quota.bytes", "1"), (507, "storage.full", "1")])
    for code in ("quota.bytes", "storage.full"):
        with pytest.raises(ServiceRefusedError, match=code):
            list(connect(other.address).jobs())
    other.close()


# -- resumable uploads against a small server with deliberate faults --------------------------------------------------


class TusContract:
    """A tus 1.0 server with the service's checksums and upload states, and a `fault` for each PATCH."""

    def __init__(self) -> None:
        self.uploads: dict[str, bytearray] = {}
        self.length, self.names, self.patched = 0, [], 0
        self.final: str = "landed"
        self.fault: list[str] = []
        self.other = FakeServer(self.answer)
        self.address = self.other.address

    @property
    def content(self) -> bytes:
        return bytes(next(reversed(self.uploads.values())))

    def answer(self, request: "Request") -> "Answer":
        if request.path == "/v1/uploads":
            self.length = int(request.headers["upload-length"])
            self.names.append(request.headers["upload-metadata"])
            self.uploads[f"/v1/uploads/{len(self.uploads)}"] = bytearray()
            return 201, {"Location": list(self.uploads)[-1]}, b""
        if request.path.startswith("/v1/slides/"):
            return 200, {}, self._slide()
        if request.path not in self.uploads:
            return 404, {}, refusal(404, "upload.unknown")
        arrived = self.uploads[request.path]
        if request.method == "HEAD":
            return 200, {"Upload-Offset": str(len(arrived))}, b""
        if request.method == "GET":
            return 200, {}, json.dumps(self._state(arrived)).encode()
        return self._patch(request, arrived)

    def _patch(self, request: "Request", arrived: bytearray) -> "Answer":
        fault = self.fault.pop(0) if self.fault else ""
        if fault == "gone":
            self.uploads.clear()
            return 404, {}, refusal(404, "upload.unknown")
        if fault.isdigit():
            return int(fault), {}, refusal(int(fault), "upload.later")
        if fault == "half":
            arrived += request.body[: len(request.body) // 2]
            return None
        checksum = hashlib.sha256(request.body).digest()
        assert request.headers["upload-checksum"] == f"sha256 {base64.b64encode(checksum).decode()}"
        if int(request.headers["upload-offset"]) != len(arrived):
            return 409, {}, refusal(409, "upload.offset")
        arrived += request.body
        self.patched += len(request.body)
        headers = {"Upload-Offset": str(len(arrived))}
        if fault == "lost":
            return None
        if len(arrived) < self.length:
            return 204, headers, b""
        if self.final != "landed":
            return 422, {}, refusal(422, self.final)
        return 204, {**headers, "Slide-Id": "s1"}, b""

    def _state(self, arrived: bytearray) -> dict[str, Any]:
        state = "arriving" if len(arrived) < self.length else self.final if self.final == "landed" else "failed"
        error = json.loads(refusal(422, self.final)) if state == "failed" else None
        slide = "s1" if state == "landed" else None
        values = {"state": state, "bytes": len(arrived), "total_bytes": self.length, "slide": slide, "error": error}
        return {"id": "u", "expires": None, **values}

    def _slide(self) -> bytes:
        values = {"id": "s1", "name": "n", "bytes": self.length, "sha256": hashlib.sha256(self.content).hexdigest()}
        rest = dict.fromkeys(("mpp", "objective", "vendor"))
        more = {"width": 1, "height": 1, "levels": [], "warnings": [], "created": "2026-01-01T00:00:00Z"}
        return json.dumps({**values, **rest, **more}).encode()


@pytest.fixture
def tus() -> Iterator[TusContract]:
    contract = TusContract()
    yield contract
    contract.other.close()


@pytest.mark.parametrize("fault", ["half", "409", "423", "460", "503", "lost", "gone"])
def test_a_resumable_upload_recovers_from_each_fault(tus, connect, slide, tmp_path, fault) -> None:
    tus.fault = ["", fault] if fault != "gone" else [fault]
    assert connect(tus.address).upload(slide).id == "s1"
    assert tus.content == CONTENT
    assert tus.patched <= len(CONTENT)
    assert list((tmp_path / "state").iterdir()) == []


def test_chunks_shrink_to_the_limit_of_a_proxy(tus, connect, slide) -> None:
    sizes: list[int] = []

    def through_nginx(request: "Request") -> "Answer":
        sizes.append(len(request.body))
        return (413, {}, b"<html>") if len(request.body) > 2**20 else tus.answer(request)

    tus.other.answer = through_nginx
    connect(tus.address).upload(slide)
    assert tus.content == CONTENT
    assert [size for size in sizes if size > 2**20] == [2**22, 2**21]


def test_another_process_continues_a_resumable_upload(tus, connect, slide) -> None:
    def die(arrived: int, total: int) -> None:
        if arrived:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect(tus.address).upload(slide, on_progress=die)
    values: list[int] = []
    assert connect(tus.address).upload(slide, on_progress=lambda arrived, total: values.append(arrived)).id == "s1"
    assert values[0] == 4 * 2**20
    assert (tus.content, tus.patched, len(tus.names)) == (CONTENT, len(CONTENT), 1)


def test_a_changed_slide_starts_a_new_upload(tus, connect, slide) -> None:
    def die(arrived: int, total: int) -> None:
        if arrived:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect(tus.address).upload(slide, on_progress=die)
    slide.write_bytes(CONTENT[::-1])
    connect(tus.address).upload(slide)
    assert (tus.content, len(tus.names)) == (CONTENT[::-1], 2)


def test_a_slide_that_changes_during_the_upload_is_an_error(tus, connect, slide) -> None:
    def change(arrived: int, total: int) -> None:
        if 0 < arrived < total:
            with slide.open("r+b") as file:
                file.seek(len(CONTENT) - 5)
                file.write(b"other")

    with pytest.raises(IntegrityError, match="changed while it was sent"):
        connect(tus.address).upload(slide, on_progress=change)


def test_a_slide_that_differs_on_the_service_is_an_error(tus, connect, slide) -> None:
    def corrupt(request: "Request") -> "Answer":
        if request.path.startswith("/v1/slides/"):
            tus.uploads[next(reversed(tus.uploads))][0] ^= 1
        return tus.answer(request)

    tus.other.answer = corrupt
    with pytest.raises(IntegrityError, match="differs from the local file"):
        connect(tus.address).upload(slide)


@pytest.mark.parametrize("fault", ["", "lost"])
def test_a_refused_slide_raises_the_services_problem(tus, connect, slide, tmp_path, fault) -> None:
    tus.final, tus.fault = "slide.unreadable", ["", fault]
    with pytest.raises(ServiceRefusedError) as refused:
        connect(tus.address).upload(slide)
    assert refused.value.problem.code == "slide.unreadable"
    assert list((tmp_path / "state").iterdir()) == []


def test_a_slide_of_several_files_is_sent_as_one_tar(tus, connect, tmp_path) -> None:
    folder = tmp_path / "Fälle"
    (folder / "Müller" / "deep").mkdir(parents=True)
    (folder / "other").mkdir()
    contents = {"Müller.mrxs": b"index", "Müller/Slidedat.ini": b"[GENERAL]", "Müller/deep/Data0000.dat": CONTENT}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "other" / "not mine").touch()
    connect(tus.address).upload(folder / "Müller.mrxs")
    assert base64.b64decode(tus.names[0].split()[1]).decode() == "Müller.mrxs.tar"
    with tarfile.open(fileobj=io.BytesIO(tus.content)) as tar:
        found = {entry.name: tar.extractfile(entry).read() for entry in tar}
    assert found == contents


def test_a_folder_of_dicom_files_is_sent_as_the_same_tar_every_time(tmp_path) -> None:
    folder = tmp_path / "case 7"
    folder.mkdir()
    with pytest.raises(UnusableError, match=r"without \.dcm"):
        open_source(folder)
    for number, size in enumerate((0, 511, 512, 513)):
        (folder / f"{number}.dcm").write_bytes(bytes([number]) * size)
    (folder / "notes.txt").write_text("of a patient")
    source = open_source(folder)
    whole = source.read(0, source.bytes + 1)
    assert (source.name, len(whole)) == ("case 7.tar", source.bytes)
    os.utime(folder / "1.dcm", (0, 0))
    assert open_source(folder).read(0, source.bytes) == whole
    chance = random.Random(0)
    for _ in range(50):
        start, count = chance.randrange(source.bytes), chance.randrange(2000)
        assert source.read(start, count) == whole[start : start + count]
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert [(entry.name, entry.size, entry.mtime, entry.uid) for entry in tar] == [
            (f"{number}.dcm", size, 0, 0) for number, size in enumerate((0, 511, 512, 513))
        ]


class Request:
    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body


Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers, body; None closes the connection without a response."""


class FakeServer:
    """Minimal HTTP server, one request per connection."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                method, path, _ = stream.readline().decode().split()
                headers = {}
                while line := stream.readline().decode("latin-1").strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                found = self.answer(Request(method, path, headers, body))
                if found is None:
                    continue
                status, given, content = found
                given = {"Content-Length": str(len(content)), "Connection": "close", **given}
                head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
                content = b"" if method == "HEAD" else content
                connection.sendall(f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + content)


def refusal(status: int, code: str) -> bytes:
    return json.dumps({"status": status, "code": code, "detail": f"{code}: so it is"}).encode()
