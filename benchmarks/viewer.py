"""Viewers' tiles over HTTP: a service in its own process, asked by six connections, as a browser asks."""

import contextlib
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator

from benchmarks.slides import big_slide
from benchmarks.table import table
from slidelift.wsi.deepzoom import TILE_SIZE, DeepZoom
from slidelift.wsi.geometry import Size

_CONNECTIONS = 6
_TILES = 300


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[httpx.Client]:
    """A service without a worker, and a client of it."""
    port = 8963
    command = [sys.executable, "-m", "slidelift", "serve", "--no-worker", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--data-dir", str(folder / "data")], env=dict(os.environ), **quiet)  # type: ignore[call-overload]
    try:
        limits = httpx.Limits(max_connections=_CONNECTIONS)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=120) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    client.get("/health/live")
                    break
                time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait()


def _tiles(size: Size) -> list[tuple[int, int, int]]:
    """Tiles of the six finest levels, in the order of a fixed die: neighbours are not asked for one after another."""
    zoom, die = DeepZoom(size), random.Random(0)
    found = []
    while len(found) < _TILES:
        level = die.randint(zoom.max_level - 5, zoom.max_level)
        whole = zoom.level_size(level)
        found.append((level, die.randrange(-(-whole.width // TILE_SIZE)), die.randrange(-(-whole.height // TILE_SIZE))))
    return list(dict.fromkeys(found))


def _asked(client: httpx.Client, slide: str, tiles: list[tuple[int, int, int]], connections: int) -> list[float]:
    """Milliseconds of each tile."""

    def ask(tile: tuple[int, int, int]) -> float:
        begun = time.perf_counter()
        client.get(f"/v1/slides/{slide}_files/{tile[0]}/{tile[1]}_{tile[2]}.jpeg").raise_for_status()
        return 1000 * (time.perf_counter() - begun)

    with ThreadPoolExecutor(connections) as pool:
        return list(pool.map(ask, tiles))


def _by_openslide(path: Path, tiles: list[tuple[int, int, int]]) -> list[float]:
    """The same by OpenSlide's own generator, in this process, encoded by Pillow."""
    times = []
    with openslide.OpenSlide(path) as slide:
        zoom = DeepZoomGenerator(slide, TILE_SIZE, 0)
        for level, column, row in tiles:
            begun = time.perf_counter()
            zoom.get_tile(level, (column, row)).save(io.BytesIO(), "JPEG", quality=90, subsampling=0)
            times.append(1000 * (time.perf_counter() - begun))
    return times


def report(folder: Path, side: int) -> str:
    """The table; `side` is the slide's in pixels."""
    path = big_slide(folder, side, side, 0.3)
    tiles = _tiles(Size(side, side))
    with _service(folder) as client:
        slide = client.put("/v1/slides/bench.tiff", content=path.read_bytes()).json()["id"]
        _asked(client, slide, [(8, 0, 0)] * 12, _CONNECTIONS)  # the children start, and open the slide
        measured = {
            "decoded, one at a time": _asked(client, slide, tiles[::2], 1),
            "decoded, six at a time": _asked(client, slide, tiles[1::2], _CONNECTIONS),
            "asked for again, one at a time": _asked(client, slide, tiles, 1),
            "asked for again, six at a time": _asked(client, slide, tiles, _CONNECTIONS),
            "OpenSlide's DeepZoom, in process": _by_openslide(path, tiles),
        }
    rows = [
        [name, str(len(times)), *(f"{np.percentile(times, share):.1f}" for share in (50, 95, 99))]
        for name, times in measured.items()
    ]
    head = ["tiles", "count", "p50, ms", "p95, ms", "p99, ms"]
    return table(
        f"Viewers' tiles over HTTP, a slide {side} px wide, tiles of the six finest levels at random", head, rows
    )
