"""The event stream of all jobs of a caller: its contents, its start and end, its cost."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self

import pytest
from fastapi import FastAPI

from slidelift.service.api import events
from slidelift.service.api.job_changes import JobEvent
from slidelift.service.auth.tokens import Scope, Token, new_token
from slidelift.service.errors import problem
from slidelift.service.jobs.job import Job, JobOrder, JobState, Outcome
from slidelift.service.jobs.sql_store import SqlStore
from slidelift.service.jobs.store import StoreUnavailableError

FAILED = Outcome(JobState.FAILED, problem("slide.unreadable", "no"))
Event = tuple[int, str, str]


class StreamClient:
    """A client that reads an event stream and can disconnect."""

    def __init__(
        self, app: FastAPI, secret: str | None = None, last: int | str | None = None, path: str = "/v1/events"
    ) -> None:
        self._app, self._arrived, self._gone = app, asyncio.Event(), asyncio.Event()
        self.status, self.text = 0, ""
        given = {"Authorization": secret and f"Bearer {secret}", "Last-Event-ID": last}
        headers = [(name.lower().encode(), str(value).encode()) for name, value in given.items() if value is not None]
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *headers],
            "server": ("test", 80),
        }

    async def __aenter__(self) -> Self:
        self.stream = asyncio.create_task(self._app(self.scope, self._receive, self._send))
        await self.until(lambda: "changes from here on" in self.text or self.status not in (0, 200))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await asyncio.wait_for(self.stream, 10)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()
        self._arrived.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                self._arrived.clear()
                await self._arrived.wait()

    async def receive(self, count: int) -> list[Event]:
        """Wait for exactly that many events; return id, job and state of each."""
        await self.until(lambda: len(self.events) >= count)
        assert len(self.events) == count
        return self.events

    @property
    def events(self) -> list[Event]:
        found = []
        for block in self.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields.get("event") == "job":
                job = json.loads(fields["data"])
                found.append((int(fields["id"]), job["id"], job["state"]))
        return found


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def states(received: list[Event]) -> list[tuple[str, str]]:
    assert [number for number, *_ in received] == sorted({number for number, *_ in received})
    return [(job, state) for _, job, state in received]


@pytest.fixture
def store(app: FastAPI, slide_id: str) -> SqlStore:
    found: SqlStore = app.state.context.store
    return found


@pytest.fixture
def add(store: SqlStore, slide_id: str) -> Callable[..., Job]:
    def queue(name: str, **facts: Any) -> Job:
        (job,), _ = store.add_jobs([Job(name, JobOrder(slide_id, model="bicubic"), 1000.0, **facts)])
        return job

    return queue


def test_stream_starts_with_the_unfinished_jobs_and_continues_with_each_change(
    app: FastAPI, store: SqlStore, add: Callable[..., Job]
) -> None:
    async def test() -> None:
        for name in ("ended", "a", "b"):
            add(name)
        store.cancel("ended")
        async with StreamClient(app) as client:
            assert states(await client.receive(2)) == [("a", "queued"), ("b", "queued")]
            store.claim("w")
            assert states(await client.receive(3))[2:] == [("a", "running")]
            add("new")
            assert states(await client.receive(4))[3:] == [("new", "queued")]
            store.settle("a", 1, FAILED)
            assert states(await client.receive(5))[4:] == [("a", "failed")]
            store.retry("a")
            assert states(await client.receive(6))[5:] == [("a", "queued")]
            store.retry("ended")
            assert states(await client.receive(7))[6:] == [("ended", "queued")]

    run(test)


def test_job_that_starts_and_ends_between_two_polls_is_sent(
    app: FastAPI, store: SqlStore, add: Callable[..., Job]
) -> None:
    async def test() -> None:
        add("old")
        store.cancel("old")
        async with StreamClient(app) as client:
            for _ in range(3):  # without a pause, so that no poll happens in between
                add(f"short{_}")
                store.cancel(f"short{_}")
            store.retry("old")
            store.cancel("old")
            ended = [(name, "cancelled") for name in ("short0", "short1", "short2", "old")]
            await client.until(lambda: states(client.events)[-4:] == ended)

    run(test)


def test_each_caller_receives_only_their_own_jobs(open_app: Callable[..., FastAPI], client: Any, tiff: bytes) -> None:
    app = open_app(auth="on")
    store = app.state.context.store

    def token(*scopes: Scope) -> tuple[Token, str]:
        made = new_token("lab", frozenset(scopes), time.time())
        store.add_token(made[0])
        return made

    mine, other, admin, writer = token(Scope.READ), token(Scope.READ), token(Scope.ADMIN), token(Scope.WRITE)
    by_admin = {"Authorization": f"Bearer {admin[1]}"}
    slide = client(app)("PUT", "/v1/slides/a.svs", content=tiff, headers=by_admin).json()["id"]

    def add(name: str, owner: str | None) -> None:
        store.add_jobs([Job(name, JobOrder(slide, model="bicubic"), 1000.0, owner=owner)])

    async def test() -> None:
        add("m0", mine[0].id)
        add("o0", other[0].id)
        async with (
            StreamClient(app, mine[1]) as first,
            StreamClient(app, other[1]) as second,
            StreamClient(app, admin[1]) as third,
        ):
            for name, owner in (("m1", mine[0].id), ("o1", other[0].id), ("nobody's", None)):
                add(name, owner)
            assert [name for name, _ in states(await third.receive(5))] == [
                "m0",
                "o0",
                "m1",
                "o1",
                "nobody's",
            ]
            assert [name for name, _ in states(await first.receive(2))] == ["m0", "m1"]
            assert [name for name, _ in states(await second.receive(2))] == ["o0", "o1"]
        async with StreamClient(app, writer[1]) as refused:
            assert refused.status == 403
        async with StreamClient(app) as stranger:
            assert stranger.status == 401

    run(test)


def test_reconnecting_client_receives_missed_changes_once(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        add("a")
        add("b")
        async with StreamClient(app) as client:
            ((_, *_a), (last, *_b)) = await client.receive(2)
        async with StreamClient(app) as quiet:
            await quiet.receive(2)
            assert f"id: {last}\n\n" in quiet.text
        store.cancel("a")
        async with StreamClient(app, last=last) as client:
            assert states(await client.receive(1)) == [("a", "cancelled")]
        for odd in (last + 100, "x", "-1", "9" * 5000):  # of another data folder, or invalid: starts from the beginning
            async with StreamClient(app, last=odd) as client:
                assert states(await client.receive(1)) == [("b", "queued")]
        monkeypatch.setattr(events, "MAX_REPLAYED_CHANGES", 0)
        async with StreamClient(app, last=last) as client:
            assert states(await client.receive(1)) == [("b", "queued")]

    run(test)


def test_one_poll_serves_all_streams_and_polling_ends_with_the_last_stream(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, polls = store.changes, []

    def counted(after: int, limit: int) -> Any:
        polls.append(after)
        return read(after, limit)

    monkeypatch.setattr(store, "changes", counted)
    job_changes = app.state.context.job_changes

    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            clients = [StreamClient(app) for _ in range(20)]
            for client in clients:
                group.create_task(client.__aenter__())
        started, polled = time.monotonic(), len(polls)
        add("a")
        for client in clients:
            assert states(await client.receive(1)) == [("a", "queued")]
        assert len(polls) - polled <= 2 + (time.monotonic() - started) / 0.25
        for client in clients:
            await client.__aexit__()
        assert not job_changes._subscriptions
        await asyncio.wait_for(job_changes._poll_task, 5)

    run(test)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs that were encoded, in order."""
    ids: list[str] = []
    job_url = events.job_url  # called once for each event

    def counted(prefix: str, job: Job) -> str:
        ids.append(job.id)
        return job_url(prefix, job)

    monkeypatch.setattr(events, "job_url", counted)
    return ids


def test_streams_that_start_together_share_one_read_and_one_encoding(
    app: FastAPI, store: SqlStore, slide_id: str, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"j{n:03}" for n in range(150)]
    store.add_jobs([Job(name, JobOrder(slide_id, model="bicubic"), 1000.0) for name in names])
    read, polls = store.unfinished, []
    monkeypatch.setattr(store, "unfinished", lambda: polls.append(1) or read())

    async def test() -> None:
        clients = [StreamClient(app) for _ in range(30)]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.__aenter__())
        for client in clients:
            assert [name for name, _ in states(await client.receive(150))] == names
        assert (len(polls), sorted(encoded)) == (1, names)
        store.cancel("j000")
        async with StreamClient(app) as late:  # only changed jobs are encoded again
            assert [name for name, _ in states(late.events)] == names[1:]
        assert (len(polls), len(encoded) - 150) == (2, encoded[150:].count("j000"))
        for client in clients:
            await client.__aexit__()

    run(test)


def test_each_change_is_encoded_once_for_all_streams(
    app: FastAPI, store: SqlStore, slide_id: str, encoded: list[str]
) -> None:
    async def test() -> None:
        clients = [StreamClient(app) for _ in range(20)]
        for client in clients:
            await client.__aenter__()
        store.add_jobs([Job(f"j{n:03}", JobOrder(slide_id, model="bicubic"), 1000.0) for n in range(100)])
        for client in clients:
            await client.receive(100)
            await client.__aexit__()
        assert len(encoded) == 100

    run(test)


def test_many_events_are_sent_in_chunks_between_which_other_tasks_run() -> None:
    many = [JobEvent(number, Job("j", JobOrder("s", model="bicubic"), 0.0), bytes(1500)) for number in range(1000)]

    async def test() -> None:
        ticks = 0

        async def other() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(other())
        chunks, before = [], -1
        async for chunk in events._in_chunks(many):
            assert ticks > before
            before = ticks
            chunks.append(chunk)
            assert len(chunk) < 2 * 2**16
        others.cancel()
        assert b"".join(chunks) == bytes(1500 * 1000)

    run(test)


def test_streams_of_one_job_share_the_reads_of_the_database(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    add("a")
    add("b")
    read, reads = store.job, []
    monkeypatch.setattr(store, "job", lambda job_id: reads.append(job_id) or read(job_id))

    async def test() -> None:
        clients = [StreamClient(app, path="/v1/jobs/a/events") for _ in range(10)]
        streams = [asyncio.create_task(app(client.scope, client._receive, client._send)) for client in clients]
        for client in clients:
            await client.receive(1)
        assert len(reads) == 10
        store.claim("w")
        store.cancel("b")
        for client in clients:
            assert [state for _, _, state in await client.receive(2)] == ["queued", "running"]
        store.settle("a", 1, FAILED)
        await asyncio.wait_for(asyncio.gather(*streams), 10)
        assert [state for _, _, state in clients[0].events] == ["queued", "running", "failed"]
        assert len(reads) == 10

    run(test)


def test_many_simultaneous_changes_arrive_completely_and_in_order(
    app: FastAPI, store: SqlStore, slide_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidelift.service.api.job_changes._BATCH_SIZE", 7)

    async def test() -> None:
        async with StreamClient(app) as client, StreamClient(app) as late:
            store.add_jobs([Job(f"j{n:03}", JobOrder(slide_id, model="bicubic"), 1000.0) for n in range(100)])
            assert [name for name, _ in states(await client.receive(100))] == [f"j{n:03}" for n in range(100)]
            await late.receive(100)

    run(test)


def test_shutdown_ends_the_stream(app: FastAPI, add: Callable[..., Job]) -> None:
    async def test() -> None:
        async with StreamClient(app) as client:
            app.state.context.job_changes.close()
            await asyncio.wait_for(asyncio.shield(client.stream), 3)
        async with StreamClient(app) as client:  # and a stream that starts during the shutdown
            await asyncio.wait_for(asyncio.shield(client.stream), 3)

    run(test)


def test_revoked_token_ends_its_stream(open_app: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.2)
    app = open_app(auth="on")
    token, secret = new_token("lab", frozenset({Scope.READ}), time.time())
    app.state.context.store.add_token(token)

    async def test() -> None:
        async with StreamClient(app, secret) as client:
            await client.until(lambda: "still here" in client.text)
            app.state.context.store.revoke_token(token.id)
            await asyncio.wait_for(asyncio.shield(client.stream), 5)

    run(test)


def test_stream_survives_an_unavailable_database(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Any:
        raise StoreUnavailableError("the database does not answer")

    async def test() -> None:
        async with StreamClient(app) as client:
            with monkeypatch.context() as patched:
                patched.setattr(store, "changes", gone)
                add("a")
                await asyncio.sleep(0.6)
                assert client.events == []
            assert states(await client.receive(1)) == [("a", "queued")]

    run(test)
