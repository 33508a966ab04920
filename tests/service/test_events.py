"""One stream for all jobs of a caller: who hears what, from when to when, and at what cost."""

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
Told = tuple[int, str, str]


class Ear:
    """An open stream, read as it comes, by a client that may go away."""

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

    async def heard(self, count: int) -> list[Told]:
        """The first so many events, when they have come: id, job and state; more is an error."""
        await self.until(lambda: len(self.events) >= count)
        assert len(self.events) == count
        return self.events

    @property
    def events(self) -> list[Told]:
        found = []
        for block in self.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields.get("event") == "job":
                said = json.loads(fields["data"])
                found.append((int(fields["id"]), said["id"], said["state"]))
        return found


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def told(heard: list[Told]) -> list[tuple[str, str]]:
    assert [number for number, *_ in heard] == sorted({number for number, *_ in heard})
    return [(job, state) for _, job, state in heard]


@pytest.fixture
def store(app: FastAPI, slide_id: str) -> SqlStore:
    found: SqlStore = app.state.context.store
    return found


@pytest.fixture
def add(store: SqlStore, slide_id: str) -> Callable[..., Job]:
    def queue(name: str, **facts: Any) -> Job:
        (job,), _ = store.add_jobs([Job(name, JobOrder(slide_id, "bicubic"), 1000.0, **facts)])
        return job

    return queue


def test_it_begins_with_what_is_under_way_and_goes_on_with_each_change(
    app: FastAPI, store: SqlStore, add: Callable[..., Job]
) -> None:
    async def test() -> None:
        for name in ("ended", "a", "b"):
            add(name)
        store.cancel("ended")
        async with Ear(app) as ear:
            assert told(await ear.heard(2)) == [("a", "queued"), ("b", "queued")]
            store.claim("w")
            assert told(await ear.heard(3))[2:] == [("a", "running")]
            add("new")
            assert told(await ear.heard(4))[3:] == [("new", "queued")]
            store.settle("a", 1, FAILED)
            assert told(await ear.heard(5))[4:] == [("a", "failed")]
            store.retry("a")
            assert told(await ear.heard(6))[5:] == [("a", "queued")]
            store.retry("ended")
            assert told(await ear.heard(7))[6:] == [("ended", "queued")]

    run(test)


def test_what_begins_and_ends_between_two_looks_is_heard(
    app: FastAPI, store: SqlStore, add: Callable[..., Job]
) -> None:
    async def test() -> None:
        add("old")
        store.cancel("old")
        async with Ear(app) as ear:
            for _ in range(3):  # without a pause: no look comes in between
                add(f"short{_}")
                store.cancel(f"short{_}")
            store.retry("old")
            store.cancel("old")
            ended = [(name, "cancelled") for name in ("short0", "short1", "short2", "old")]
            await ear.until(lambda: told(ear.events)[-4:] == ended)

    run(test)


def test_each_hears_of_their_own_jobs_alone(open_app: Callable[..., FastAPI], client: Any, tiff: bytes) -> None:
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
        store.add_jobs([Job(name, JobOrder(slide, "bicubic"), 1000.0, owner=owner)])

    async def test() -> None:
        add("m0", mine[0].id)
        add("o0", other[0].id)
        async with Ear(app, mine[1]) as first, Ear(app, other[1]) as second, Ear(app, admin[1]) as third:
            for name, owner in (("m1", mine[0].id), ("o1", other[0].id), ("nobody's", None)):
                add(name, owner)
            assert [name for name, _ in told(await third.heard(5))] == ["m0", "o0", "m1", "o1", "nobody's"]
            assert [name for name, _ in told(await first.heard(2))] == ["m0", "m1"]
            assert [name for name, _ in told(await second.heard(2))] == ["o0", "o1"]
        async with Ear(app, writer[1]) as refused:
            assert refused.status == 403
        async with Ear(app) as stranger:
            assert stranger.status == 401

    run(test)


def test_who_comes_back_hears_what_was_missed_and_nothing_twice(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        add("a")
        add("b")
        async with Ear(app) as ear:
            ((_, *_a), (last, *_b)) = await ear.heard(2)
        async with Ear(app) as quiet:
            await quiet.heard(2)
            assert f"id: {last}\n\n" in quiet.text
        store.cancel("a")
        async with Ear(app, last=last) as ear:
            assert told(await ear.heard(1)) == [("a", "cancelled")]
        for odd in (last + 100, "x", "-1", "9" * 5000):  # of another life, or none: as if for the first time
            async with Ear(app, last=odd) as ear:
                assert told(await ear.heard(1)) == [("b", "queued")]
        monkeypatch.setattr(events, "MAX_REPLAYED_CHANGES", 0)
        async with Ear(app, last=last) as ear:
            assert told(await ear.heard(1)) == [("b", "queued")]

    run(test)


def test_one_look_serves_all_and_nobody_looks_when_nobody_listens(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, looks = store.changes, []

    def counted(after: int, limit: int) -> Any:
        looks.append(after)
        return read(after, limit)

    monkeypatch.setattr(store, "changes", counted)
    watch = app.state.context.job_changes

    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            ears = [Ear(app) for _ in range(20)]
            for ear in ears:
                group.create_task(ear.__aenter__())
        begun, looked = time.monotonic(), len(looks)
        add("a")
        for ear in ears:
            assert told(await ear.heard(1)) == [("a", "queued")]
        assert len(looks) - looked <= 2 + (time.monotonic() - begun) / 0.25
        for ear in ears:
            await ear.__aexit__()
        assert not watch._subscriptions
        await asyncio.wait_for(watch._poll_task, 5)

    run(test)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs that were written as JSON."""
    seen: list[str] = []
    write = events.job_url

    def counted(prefix: str, job: Job) -> Any:
        seen.append(job.id)
        return write(prefix, job)

    monkeypatch.setattr(events, "job_url", counted)
    return seen


def test_those_who_begin_at_once_share_one_look_and_each_job_is_written_once(
    app: FastAPI, store: SqlStore, slide_id: str, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"j{n:03}" for n in range(150)]
    store.add_jobs([Job(name, JobOrder(slide_id, "bicubic"), 1000.0) for name in names])
    read, looks = store.unfinished, []
    monkeypatch.setattr(store, "unfinished", lambda: looks.append(1) or read())

    async def test() -> None:
        ears = [Ear(app) for _ in range(30)]
        async with asyncio.TaskGroup() as group:
            for ear in ears:
                group.create_task(ear.__aenter__())
        for ear in ears:
            assert [name for name, _ in told(await ear.heard(150))] == names
        assert (len(looks), sorted(written)) == (1, names)
        store.cancel("j000")
        async with Ear(app) as late:  # only what has changed is written anew
            assert [name for name, _ in told(late.events)] == names[1:]
        assert (len(looks), len(written) - 150) == (2, written[150:].count("j000"))
        for ear in ears:
            await ear.__aexit__()

    run(test)


def test_changes_that_many_hear_are_written_once(
    app: FastAPI, store: SqlStore, slide_id: str, written: list[str]
) -> None:
    async def test() -> None:
        ears = [Ear(app) for _ in range(20)]
        for ear in ears:
            await ear.__aenter__()
        store.add_jobs([Job(f"j{n:03}", JobOrder(slide_id, "bicubic"), 1000.0) for n in range(100)])
        for ear in ears:
            await ear.heard(100)
            await ear.__aexit__()
        assert len(written) == 100

    run(test)


def test_many_events_are_sent_in_slices_between_which_others_get_their_turn() -> None:
    news = [JobEvent(number, Job("j", JobOrder("s", "bicubic"), 0.0), bytes(1500)) for number in range(1000)]

    async def test() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(other())
        pieces, before = [], -1
        async for piece in events._in_chunks(news):
            assert turns > before
            before = turns
            pieces.append(piece)
            assert len(piece) < 2 * 2**16
        others.cancel()
        assert b"".join(pieces) == bytes(1500 * 1000)

    run(test)


def test_who_follows_one_job_asks_the_database_nothing_that_others_do_not(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    add("a")
    add("b")
    read, reads = store.job, []
    monkeypatch.setattr(store, "job", lambda job_id: reads.append(job_id) or read(job_id))

    async def test() -> None:
        ears = [Ear(app, path="/v1/jobs/a/events") for _ in range(10)]
        streams = [asyncio.create_task(app(ear.scope, ear._receive, ear._send)) for ear in ears]
        for ear in ears:
            await ear.heard(1)
        assert len(reads) == 10
        store.claim("w")
        store.cancel("b")
        for ear in ears:
            assert [state for _, _, state in await ear.heard(2)] == ["queued", "running"]
        store.settle("a", 1, FAILED)
        await asyncio.wait_for(asyncio.gather(*streams), 10)
        assert [state for _, _, state in ears[0].events] == ["queued", "running", "failed"]
        assert len(reads) == 10

    run(test)


def test_many_changes_at_once_come_all_and_in_order(
    app: FastAPI, store: SqlStore, slide_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidelift.service.api.job_changes._BATCH_SIZE", 7)

    async def test() -> None:
        async with Ear(app) as ear, Ear(app) as late:
            store.add_jobs([Job(f"j{n:03}", JobOrder(slide_id, "bicubic"), 1000.0) for n in range(100)])
            assert [name for name, _ in told(await ear.heard(100))] == [f"j{n:03}" for n in range(100)]
            await late.heard(100)

    run(test)


def test_a_stop_of_the_service_ends_the_stream(app: FastAPI, add: Callable[..., Job]) -> None:
    async def test() -> None:
        async with Ear(app) as ear:
            app.state.context.job_changes.close()
            await asyncio.wait_for(asyncio.shield(ear.stream), 3)
        async with Ear(app) as ear:  # and of one that comes in between
            await asyncio.wait_for(asyncio.shield(ear.stream), 3)

    run(test)


def test_a_token_that_ends_ends_its_stream(open_app: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.2)
    app = open_app(auth="on")
    token, secret = new_token("lab", frozenset({Scope.READ}), time.time())
    app.state.context.store.add_token(token)

    async def test() -> None:
        async with Ear(app, secret) as ear:
            await ear.until(lambda: "still here" in ear.text)
            app.state.context.store.revoke_token(token.id)
            await asyncio.wait_for(asyncio.shield(ear.stream), 5)

    run(test)


def test_a_database_that_is_away_for_a_while_is_waited_for(
    app: FastAPI, store: SqlStore, add: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Any:
        raise StoreUnavailableError("the database does not answer")

    async def test() -> None:
        async with Ear(app) as ear:
            with monkeypatch.context() as patched:
                patched.setattr(store, "changes", gone)
                add("a")
                await asyncio.sleep(0.6)
                assert ear.events == []
            assert told(await ear.heard(1)) == [("a", "queued")]

    run(test)
