"""Fixtures: synthetic slides whose pixels are given by a formula, real slides, and a PostgreSQL server."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from slidelift.wsi.errors import TileReadError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Level, Pixels, SlideInfo

ROOT = Path(__file__).resolve().parent.parent


def formula(region: Region, level: int = 0) -> Pixels:
    """Pixels of the synthetic slide; neighbouring 256-px tiles differ, and so do levels."""
    y, x = np.mgrid[region.y : region.bottom, region.x : region.right]
    noise = (x * 2654435761 + y * 40503 + level * 97) >> 7
    return np.stack([(x // 2 + y // 3 + level) % 256, (x ^ y) % 256, noise % 256], axis=2).astype(np.uint8)


@dataclass
class FormulaReader:
    """Reader of the synthetic slide; `broken` regions of level 0 and all `broken_levels` can't be read."""

    size: Size
    downsamples: tuple[int, ...] = (1,)
    broken: tuple[Region, ...] = ()
    broken_levels: tuple[int, ...] = ()
    reads: list[tuple[int, Region]] = field(default_factory=list)

    @property
    def info(self) -> SlideInfo:
        levels = tuple(Level(Size(self.size.width // d, self.size.height // d), float(d)) for d in self.downsamples)
        return SlideInfo("formula", "formula", levels, (0.5, 0.5), 20.0, None)

    def read_region(self, level: int, region: Region) -> Pixels:
        size = self.info.levels[level].size
        assert Region(0, 0, size.width, size.height).contains(region), "the region lies outside of the level"
        assert not region.is_empty
        self.reads.append((level, region))
        hit = level == 0 and any(not region.intersect(bad).is_empty for bad in self.broken)
        if hit or level in self.broken_levels:
            raise TileReadError("formula", level, region, "broken on purpose")
        return formula(region, level)

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def formula_pixels() -> Callable[..., Pixels]:
    return formula


@pytest.fixture(scope="session")
def formula_reader() -> type[FormulaReader]:
    return FormulaReader


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real slides; without it tests are skipped, or fail if SLIDELIFT_REQUIRE_DATA is set."""
    folder = Path(os.environ.get("SLIDELIFT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        reason = f"{folder}: no folder with real slides (set SLIDELIFT_DATA to its path)"
        if os.environ.get("SLIDELIFT_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def cmu(data: Path) -> Path:
    return data / "slides" / "cmu-1-small-region.svs"


@pytest.fixture
def write_png(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes the formula's pixels, or given ones, as an image."""

    def write(width: int, height: int, name: str = "slide.png", pixels: Pixels | None = None) -> Path:
        path = tmp_path / name
        Image.fromarray(formula(Region(0, 0, width, height)) if pixels is None else pixels).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def write_pyramid() -> Callable[..., Path]:
    """Function that writes pixels as a tiled, pyramidal, lossless TIFF with a pixel size, for OpenSlide."""

    def write(path: Path, pixels: Pixels, levels: int = 3, mpp: float = 0.5) -> Path:
        with tifffile.TiffWriter(path, bigtiff=True) as tiff:
            for level in range(levels):
                step = 2**level
                per_cm = 1e4 / (mpp * step)
                tiff.write(
                    np.ascontiguousarray(pixels[::step, ::step]),
                    photometric="rgb",
                    tile=(256, 256),
                    compression="deflate",
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=1 if level else 0,
                    metadata=None,
                )
        return path

    return write


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server, started from the distribution's package on its own socket."""
    server = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
    if server is None:
        reason = "PostgreSQL is not installed (apt install postgresql)"
        if os.environ.get("SLIDELIFT_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path must be short
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # the server refuses to be root
    if as_user:
        shutil.chown(folder, "postgres", "postgres")
    data, log = folder / "data", folder / "log"

    def run(*command: str | Path) -> None:
        subprocess.run([*as_user, *command], check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run(server, "-D", data, "-U", "slidelift", "--auth=trust", "--encoding=UTF8", "--no-sync")
    control = server.with_name("pg_ctl")
    options = f"-c listen_addresses='' -k {folder}"
    run(control, "-D", data, "-o", options, "-l", log, "-w", "start")
    try:
        yield f"postgresql://slidelift@/postgres?host={folder}"
    finally:
        run(control, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLIDELIFT_") and "DATA" not in name]:
        monkeypatch.delenv(name)
