"""The pool of decoding children: crashes, hangs and malformed messages cost one tile and name no path."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from slidelift.service.errors import ServiceError
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.service.processes.viewer_pool import DecoderPool

SOURCE = ImageSource("slide", Path("/data/slides/1/slide.svs"), "slide 1")


async def is_connected() -> bool:
    return False


def tile(pool: DecoderPool) -> bytes:
    async def decode() -> bytes:
        try:
            return await pool.tile(SOURCE, 9, 0, 0, TileFormat.PNG, is_connected)
        finally:
            pool.close()

    return asyncio.run(decode())


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        (
            "print('words of a library', flush=True)\ntime.sleep(60)",
            "sent a malformed",
        ),
        ("sys.exit(3)", "ended with exit code 3"),
        ("os.abort()", "died of signal SIGABRT"),
    ],
)
def test_failed_child_costs_a_tile(start_instead: Callable[[str], None], program: str, detail: str) -> None:
    start_instead(f"import os, sys, time\nsys.stdin.readline()\n{program}")
    with pytest.raises(ServiceError) as error:
        tile(DecoderPool())
    assert error.value.problem.code == "slide.tile-unreadable"
    assert error.value.problem.detail.startswith(f"slide 1: the process that decodes {detail}")


@pytest.mark.usefixtures("deaf_child")
def test_child_that_answers_with_progress_is_a_fault_of_the_service() -> None:
    with pytest.raises(ServiceError, match="ProgressChanged") as error:
        tile(DecoderPool())
    assert error.value.problem.code == "internal"


def test_child_that_hangs_is_ended(start_instead: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slidelift.service.processes.viewer_pool._TIMEOUT_SECONDS", 0.5)
    start_instead("import time\ntime.sleep(60)")
    with pytest.raises(ServiceError, match=r"^slide 1: no answer after 0.5 s") as error:
        tile(DecoderPool())
    assert error.value.problem.code == "view.busy"


def test_missing_file_is_named_without_its_path(tmp_path: Path) -> None:
    async def read_map() -> None:
        pool = DecoderPool()
        try:
            path = tmp_path / "result.ome.tiff"
            await pool.map(ImageSource("result", path, "result 1", "ome-tiff", report=tmp_path / "report.json"))
        finally:
            pool.close()

    with pytest.raises(ServiceError) as error:
        asyncio.run(read_map())
    assert error.value.problem.detail == "report.json: No such file or directory"
