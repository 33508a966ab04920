"""Viewer tiles over HTTP, requested by up to six connections, as by a browser."""

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
    """Start a service without a worker, and yield a client."""
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
    """Return tiles of the six finest levels in a fixed random order, so that neighbours are rarely consecutive."""
    zoom, rng = DeepZoom(size), random.Random(0)
    tiles = []
    while len(tiles) < _TILES:
        level = rng.randint(zoom.max_level - 5, zoom.max_level)
        level_size = zoom.level_size(level)
        columns, rows = (-(-side // TILE_SIZE) for side in (level_size.width, level_size.height))
        tiles.append((level, rng.randrange(columns), rng.randrange(rows)))
    return list(dict.fromkeys(tiles))


def _request(client: httpx.Client, slide: str, tiles: list[tuple[int, int, int]], connections: int) -> list[float]:
    """Request tiles; returns the milliseconds of each."""

    def get(tile: tuple[int, int, int]) -> float:
        started = time.perf_counter()
        client.get(f"/v1/slides/{slide}_files/{tile[0]}/{tile[1]}_{tile[2]}.jpeg").raise_for_status()
        return 1000 * (time.perf_counter() - started)

    with ThreadPoolExecutor(connections) as pool:
        return list(pool.map(get, tiles))


def _by_openslide(path: Path, tiles: list[tuple[int, int, int]]) -> list[float]:
    """Read the same tiles by OpenSlide's generator in this process, encoded by Pillow; returns milliseconds."""
    times = []
    with openslide.OpenSlide(path) as slide:
        zoom = DeepZoomGenerator(slide, TILE_SIZE, 0)
        for level, column, row in tiles:
            started = time.perf_counter()
            zoom.get_tile(level, (column, row)).save(io.BytesIO(), "JPEG", quality=90, subsampling=0)
            times.append(1000 * (time.perf_counter() - started))
    return times


def report(folder: Path, side: int) -> str:
    """Return the table; `side` is the slide's in pixels."""
    path = big_slide(folder, side, side, 0.3)
    tiles = _tiles(Size(side, side))
    with _service(folder) as client:
        slide = client.put("/v1/slides/bench.tiff", content=path.read_bytes()).json()["id"]
        _request(client, slide, [(8, 0, 0)] * 12, _CONNECTIONS)  # starts the decoder processes, which open the slide
        measured = {
            "first request, one connection": _request(client, slide, tiles[::2], 1),
            "first request, six connections": _request(client, slide, tiles[1::2], _CONNECTIONS),
            "repeated request, one connection": _request(client, slide, tiles, 1),
            "repeated request, six connections": _request(client, slide, tiles, _CONNECTIONS),
            "OpenSlide's DeepZoom, in process": _by_openslide(path, tiles),
        }
    rows = [
        [name, str(len(times)), *(f"{np.percentile(times, share):.1f}" for share in (50, 95, 99))]
        for name, times in measured.items()
    ]
    head = ["tiles", "count", "p50, ms", "p95, ms", "p99, ms"]
    return table(f"Viewer tiles over HTTP, slide of {side} px, random tiles of the six finest levels", head, rows)
