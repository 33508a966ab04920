"""Routes of the viewer: decoding in other processes, caching by ETag, access."""

import asyncio
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from slidelift.service.auth.tokens import Scope, new_token
from slidelift.service.errors import Cancelled
from slidelift.service.jobs.job import JobState, Outcome, Result
from slidelift.service.pipeline.image_source import ImageSource
from slidelift.service.pipeline.progress import CancelToken
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale
from slidelift.service.processes.protocol import Cancel, DecodeRequest, SizeRead
from slidelift.service.processes.viewer_pool import DecoderPool

Call = Callable[..., httpx.Response]


@pytest.fixture
def shown(open_app: Callable[..., FastAPI], client: Any, cmu: Path) -> Iterator[tuple[FastAPI, Call, str]]:
    """An application, a client of it, and the id of a real slide."""
    app = open_app()
    call = client(app)
    yield app, call, call("PUT", "/v1/slides/cmu.svs", content=cmu.read_bytes()).json()["id"]
    app.state.context.decoders.close()


@pytest.fixture
def finished(shown: tuple[FastAPI, Call, str]) -> str:
    """The id of a finished job for a corner of the slide."""
    app, call, slide = shown
    order = {"slide": slide, "model": "bicubic", "region": [256, 512, 300, 200]}
    job_id = str(call("POST", "/v1/jobs", json=order).json()["id"])
    context = app.state.context
    job = context.store.claim("w")
    output = context.storage.begin_attempt(job)
    path = context.storage.slide_path(context.store.slide(slide))
    report = upscale(UpscaleRequest(path, output, model="bicubic", region=(256, 512, 300, 200)))
    context.storage.write_report(job, report)
    result = Result(output.name, output.stat().st_size, report.output.sha256)
    context.store.settle(job_id, job.attempt, Outcome(JobState.SUCCEEDED, result=result))
    return job_id


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_tiles_of_a_slide_equal_its_pixels(shown: tuple[FastAPI, Call, str], cmu: Path) -> None:
    import openslide

    _, call, slide = shown
    described = call("GET", f"/v1/slides/{slide}.dzi")
    assert described.headers["content-type"] == "application/xml"
    assert 'Width="2220" Height="2967"' in described.text
    with openslide.OpenSlide(cmu) as opened:
        expected = np.asarray(opened.read_region((1024, 512), 0, (512, 512)).convert("RGB"))
    assert (picture(call("GET", f"/v1/slides/{slide}_files/12/2_1.png")) == expected).all()
    lossy = call("GET", f"/v1/slides/{slide}_files/12/2_1.jpeg")
    assert lossy.headers["content-type"] == "image/jpeg"
    assert np.abs(picture(lossy).astype(int) - expected).mean() < 3
    assert picture(call("GET", f"/v1/slides/{slide}_files/12/4_5.jpeg")).shape == (2967 - 2560, 2220 - 2048, 3)
    assert picture(call("GET", f"/v1/slides/{slide}_files/0/0_0.jpeg")).shape == (1, 1, 3)


def test_tile_is_cached_by_its_etag(shown: tuple[FastAPI, Call, str], monkeypatch: pytest.MonkeyPatch) -> None:
    app, call, slide = shown
    address = f"/v1/slides/{slide}_files/12/2_1.jpeg"
    first = call("GET", address)
    assert "immutable" in first.headers["cache-control"]
    assert first.headers["cache-control"].startswith("private")

    async def forbidden(*_: Any) -> bytes:
        raise AssertionError("it was decoded again")

    monkeypatch.setattr(app.state.context.decoders, "tile", forbidden)
    assert call("GET", address).content == first.content
    known = call("GET", address, headers={"If-None-Match": first.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert call("HEAD", address).headers["etag"] == first.headers["etag"]


def test_etags_differ_between_tiles_slides_and_formats(shown: tuple[FastAPI, Call, str]) -> None:
    _, call, slide = shown
    addresses = [f"/v1/slides/{slide}_files/{rest}" for rest in ("12/0_0.jpeg", "12/1_0.jpeg", "11/0_0.jpeg")]
    addresses.append(f"/v1/slides/{slide}_files/12/0_0.png")
    assert len({call("GET", one).headers["etag"] for one in addresses}) == len(addresses)


def test_missing_tiles_slides_and_jobs_are_problems(shown: tuple[FastAPI, Call, str]) -> None:
    _, call, slide = shown
    assert code(call("GET", f"/v1/slides/{slide}_files/12/5_0.jpeg")) == (404, "view.tile")
    assert code(call("GET", f"/v1/slides/{slide}_files/13/0_0.jpeg")) == (404, "view.tile")
    assert code(call("GET", f"/v1/slides/{slide}_files/12/0_0.gif")) == (422, "request.invalid")
    assert code(call("GET", f"/v1/slides/{slide}_files/-1/0_0.jpeg")) == (422, "request.invalid")
    assert code(call("GET", f"/v1/slides/{slide}_files/12/{'9' * 5000}_0.jpeg"))[0] == 422
    assert code(call("GET", "/v1/slides/none.dzi")) == (404, "slide.unknown")
    assert code(call("GET", "/v1/slides/none_files/0/0_0.jpeg")) == (404, "slide.unknown")
    assert code(call("GET", "/v1/jobs/none/result.dzi")) == (404, "job.unknown")
    assert code(call("GET", "/v1/jobs/none/map")) == (404, "job.unknown")


def test_result_is_shown_with_its_position_on_the_slide(shown: tuple[FastAPI, Call, str], finished: str) -> None:
    _, call, _slide = shown
    described = call("GET", f"/v1/jobs/{finished}/result.dzi?n=3")
    assert 'Format="jpeg"' in described.text
    assert 'Width="1200" Height="800"' in described.text
    tile = call("GET", f"/v1/jobs/{finished}/result_files/11/2_1.jpeg?n=3")
    assert picture(tile).shape == (800 - 512, 1200 - 1024, 3)
    assert "immutable" in tile.headers["cache-control"]
    position = call("GET", f"/v1/jobs/{finished}/map").json()
    assert position["place"] == [256, 512, 300, 200]
    assert position["complete"]


def test_result_before_its_plan_and_after_its_deletion_is_a_problem(
    shown: tuple[FastAPI, Call, str], finished: str
) -> None:
    _, call, slide = shown
    queued = call("POST", "/v1/jobs", json={"slide": slide, "model": "bicubic"}).json()["id"]
    assert code(call("GET", f"/v1/jobs/{queued}/map")) == (409, "job.not-finished")
    assert code(call("GET", f"/v1/jobs/{queued}/result.dzi")) == (409, "job.not-finished")
    call("DELETE", f"/v1/jobs/{queued}")
    assert code(call("GET", f"/v1/jobs/{queued}/map")) == (409, "job.no-result")
    call("DELETE", f"/v1/jobs/{finished}/result")
    assert code(call("GET", f"/v1/jobs/{finished}/result.dzi")) == (410, "result.deleted")
    assert code(call("GET", f"/v1/jobs/{finished}/result_files/0/0_0.jpeg")) == (410, "result.deleted")


def test_crashed_decoder_fails_only_its_tile(shown: tuple[FastAPI, Call, str]) -> None:
    app, call, slide = shown
    call("GET", f"/v1/slides/{slide}_files/12/0_0.jpeg")
    (child,) = app.state.context.decoders._idle
    os.kill(child.process.pid, signal.SIGSTOP)
    later = threading.Timer(0.5, os.kill, (child.process.pid, signal.SIGKILL))
    later.start()
    lost = call("GET", f"/v1/slides/{slide}_files/12/1_0.jpeg")
    assert code(lost) == (422, "slide.tile-unreadable")
    assert str(app.state.context.settings.data_dir) not in lost.text
    assert picture(call("GET", f"/v1/slides/{slide}_files/12/1_0.jpeg")).shape == (512, 512, 3)


def test_decoder_that_died_while_idle_fails_no_tile(shown: tuple[FastAPI, Call, str]) -> None:
    app, call, slide = shown
    call("GET", f"/v1/slides/{slide}_files/12/0_0.jpeg")
    (child,) = app.state.context.decoders._idle
    child.process.kill()
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    child.send(Cancel())  # fails, and the unsent data must not prevent closing
    assert picture(call("GET", f"/v1/slides/{slide}_files/12/1_0.jpeg")).shape == (512, 512, 3)


def test_invalid_tile_url_is_refused_quickly(shown: tuple[FastAPI, Call, str]) -> None:
    _, call, slide = shown
    began = time.monotonic()
    for odd in ("_." * 10_000 + "/", "_" * 20_000, "0_0." * 5000 + "/", "_files/" * 3000):
        for picture_at in (f"/v1/slides/{slide}", "/v1/jobs/none/result"):
            assert call("GET", f"{picture_at}_files/12/{odd}").status_code in (404, 405)
    assert time.monotonic() - began < 5  # a backtracking regular expression would take days


def test_missing_file_is_a_problem_without_paths(shown: tuple[FastAPI, Call, str], finished: str) -> None:
    app, call, slide = shown
    folder = app.state.context.settings.data_dir
    (folder / "slides" / slide).rename(folder / "gone")
    (folder / "jobs" / finished / "attempt-1" / "report.json").unlink()
    (folder / "jobs" / finished / "attempt-1" / "result.ome.tiff").write_bytes(b"II+")
    for address in (f"slides/{slide}_files/12/1_0.png", f"jobs/{finished}/map", f"jobs/{finished}/result.dzi"):
        answer = call("GET", f"/v1/{address}")
        assert answer.json()["code"] in ("slide.unreadable", "storage.unusable"), answer.text
        assert str(folder) not in answer.text


@pytest.fixture
def meanwhile(shown: tuple[FastAPI, Call, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.Response]:
    """Make a request, and run a function between finding the image and decoding it."""
    app, call, _ = shown
    ask = app.state.context.decoders._request

    def send(url: str, happens: Callable[[], Any]) -> httpx.Response:
        waits = [happens]

        async def late(*given: Any) -> Any:
            if waits:
                await asyncio.to_thread(waits.pop())
            return await ask(*given)

        monkeypatch.setattr(app.state.context.decoders, "_request", late)
        return call("GET", url)

    return send


def test_image_deleted_while_it_is_decoded_is_reported_as_deleted(
    shown: tuple[FastAPI, Call, str], finished: str, meanwhile: Callable[..., httpx.Response], cmu: Path
) -> None:
    app, call, slide = shown
    context, folder = app.state.context, app.state.context.settings.data_dir
    deleted = meanwhile(f"/v1/jobs/{finished}/result.dzi", lambda: call("DELETE", f"/v1/jobs/{finished}/result"))
    assert code(deleted) == (410, "result.deleted")

    other = call("PUT", "/v1/slides/b.svs", content=cmu.read_bytes()).json()["id"]
    gone = meanwhile(f"/v1/slides/{other}_files/12/0_0.jpeg", lambda: call("DELETE", f"/v1/slides/{other}"))
    assert code(gone) == (404, "slide.unknown")

    job = call("POST", "/v1/jobs", json={"slide": slide, "model": "bicubic"}).json()["id"]
    claimed = context.store.claim("w")
    path = context.storage.slide_path(context.store.slide(slide))
    output = context.storage.begin_attempt(claimed)
    stopped = CancelToken()
    stopped.cancel()
    with pytest.raises(Cancelled):
        upscale(UpscaleRequest(path, output, model="bicubic"), cancel=stopped)

    def cancel() -> None:
        call("DELETE", f"/v1/jobs/{job}")
        context.storage.tidy_job(context.store.settle(job, 1, Outcome(JobState.CANCELLED)))

    assert code(meanwhile(f"/v1/jobs/{job}/map", cancel)) == (409, "job.no-result")
    assert str(folder) not in deleted.text + gone.text


def test_result_finished_while_it_is_decoded_is_shown(
    shown: tuple[FastAPI, Call, str], meanwhile: Callable[..., httpx.Response]
) -> None:
    app, call, slide = shown
    context, region = app.state.context, [256, 512, 300, 200]
    order = {"slide": slide, "model": "bicubic", "region": region}
    job = str(call("POST", "/v1/jobs", json=order).json()["id"])
    claimed = context.store.claim("w")

    def finish() -> None:
        path = context.storage.slide_path(context.store.slide(slide))
        output = context.storage.begin_attempt(claimed)
        report = upscale(UpscaleRequest(path, output, model="bicubic", region=tuple(region)))
        context.storage.write_report(claimed, report)
        result = Result(output.name, output.stat().st_size, report.output.sha256)
        context.store.settle(job, claimed.attempt, Outcome(JobState.SUCCEEDED, result=result))

    tile = meanwhile(f"/v1/jobs/{job}/result_files/11/2_1.png", finish)
    assert picture(tile).shape == (800 - 512, 1200 - 1024, 3)
    assert "immutable" in tile.headers["cache-control"]


def test_problem_of_a_damaged_tile_contains_no_path(open_app: Callable[..., FastAPI], client: Any, data: Path) -> None:
    app = open_app()
    call = client(app)
    damaged = (data / "damaged" / "unreadable.svs").read_bytes()
    slide = call("PUT", "/v1/slides/bad.svs", content=damaged).json()["id"]
    answer = call("GET", f"/v1/slides/{slide}_files/0/0_0.jpeg")
    app.state.context.decoders.close()
    assert code(answer) == (422, "slide.tile-unreadable")
    assert str(app.state.context.settings.data_dir) not in answer.text


def test_slow_slide_does_not_block_other_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def answer(self: DecoderPool, request: DecodeRequest) -> SizeRead:
        if request.source.name == "slow":
            assert done.wait(30)
        return SizeRead(1, 1)

    monkeypatch.setattr(DecoderPool, "_answer", answer)

    async def look() -> None:
        decoders = DecoderPool()
        slow = [asyncio.create_task(decoders.size(ImageSource("slide", Path("slow"), "slow"))) for _ in range(9)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            assert await decoders.size(ImageSource("slide", Path("quick"), "quick")) == (1, 1)
        assert not any(one.done() for one in slow)
        done.set()
        assert set(await asyncio.gather(*slow)) == {(1, 1)}
        decoders.close()

    asyncio.run(look())


def test_tiles_are_visible_only_to_their_owner(open_app: Callable[..., FastAPI], client: Any, cmu: Path) -> None:
    app = open_app(auth="on")
    call, context = client(app), app.state.context
    mine, others = (new_token(name, frozenset({Scope.READ, Scope.WRITE}), context.clock()) for name in ("a", "b"))
    for token, _ in (mine, others):
        context.store.add_token(token)
    headers = [{"Authorization": f"Bearer {secret}"} for _, secret in (mine, others)]
    slide = call("PUT", "/v1/slides/cmu.svs", content=cmu.read_bytes(), headers=headers[0]).json()["id"]
    for address in (f"/v1/slides/{slide}.dzi", f"/v1/slides/{slide}_files/8/0_0.jpeg"):
        assert call("GET", address, headers=headers[0]).status_code == 200
        assert code(call("GET", address, headers=headers[1])) == (404, "slide.unknown")
        assert call("GET", address).status_code == 401
    context.decoders.close()
