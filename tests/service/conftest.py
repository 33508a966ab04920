"""Fixtures of the service's tests: a client without a server, a small real slide, a fake probe."""

import asyncio
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from slidelift.service.app import create_app
from slidelift.service.errors import Problem, ServiceError
from slidelift.service.settings import Settings

DEAF = """
import sys, time
from slidelift.service.pipeline.progress import Progress, Stage
from slidelift.service.processes.protocol import ProgressChanged, encode
sys.stdin.readline()
print(encode(ProgressChanged(Progress(Stage.UPSCALING, 1, 2))), end="", flush=True)
time.sleep(60)
"""


class Client:
    """Synchronous calls into an ASGI application; an unhandled exception fails the test."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def __call__(self, method: str, url: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, url, **options)

        return asyncio.run(call())


@pytest.fixture
def tiff() -> bytes:
    """A valid little-endian TIFF of one grey pixel."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + b"\x80"


@pytest.fixture
def facts() -> dict[str, Any]:
    """What the fake probe returns; a test may change it."""
    return {
        "width": 2220,
        "height": 2967,
        "mpp": [0.499, 0.499],
        "objective": 20.0,
        "vendor": "aperio",
        "levels": [{"width": 2220, "height": 2967, "downsample": 1.0}],
        "warnings": [],
    }


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", disk_reserve_bytes=0, max_upload_bytes=8 * 2**20)


@pytest.fixture
def app(settings: Settings, facts: dict[str, Any]) -> Iterator[FastAPI]:
    def probe(slide: Path, name: str, between: Callable[[], None]) -> Mapping[str, Any]:
        if not slide.read_bytes()[:4] == b"II*\0":
            raise ServiceError(Problem("slide.unreadable", f"{name}: no reader knows it", 422, by_user=True))
        return facts

    made = create_app(settings, probe)
    yield made
    made.state.context.store.close()


@pytest.fixture
def open_app(tmp_path: Path, facts: dict[str, Any]) -> Iterator[Callable[..., FastAPI]]:
    """Make applications with other settings and the same data folder."""
    made: list[FastAPI] = []

    def make(**given: Any) -> FastAPI:
        settings = Settings(**{"data_dir": tmp_path / "data", "disk_reserve_bytes": 0, **given})
        made.append(create_app(settings, lambda *_: facts))
        return made[-1]

    yield make
    for app in made:
        app.state.context.store.close()


@pytest.fixture
def start_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make `Runner` and the viewer pool start the given program as their child."""

    def replace(program: str) -> None:
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        (folder / "child_of_test.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setattr("slidelift.service.processes.runner.CHILD_MODULE", "child_of_test")
        monkeypatch.setattr("slidelift.service.processes.viewer_pool.CHILD_MODULE", "child_of_test")

    return replace


@pytest.fixture
def deaf_child(start_instead: Callable[[str], None]) -> None:
    """A child that reports progress once and then hangs."""
    start_instead(DEAF)


@pytest.fixture
def client() -> Callable[[FastAPI], Client]:
    """Make a client of an application."""
    return Client


@pytest.fixture
def call(app: FastAPI) -> Client:
    return Client(app)


@pytest.fixture
def slide_id(call: Client, tiff: bytes) -> str:
    """The id of an uploaded slide."""
    answer = call("PUT", "/v1/slides/Patient Müller.svs", content=tiff)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
