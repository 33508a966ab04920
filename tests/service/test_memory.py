"""Peak memory of real children: probes and jobs of files that declare huge tiles or images."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.processes.child import work_memory_bytes
from slidelift.service.processes.child_process import CHILD_MODULE, ChildProcess
from slidelift.service.processes.probing import probe
from slidelift.service.processes.protocol import (
    Answer,
    Failed,
    Probed,
    ProbeSlide,
    ProgressChanged,
    RunUpscale,
    Upscaled,
)
from slidelift.wsi.geometry import Region

MIB = 2**20


@contextmanager
def child(role: str) -> Iterator[ChildProcess]:
    made = ChildProcess(CHILD_MODULE, role)
    try:
        yield made
    finally:
        made.kill()
        made.close()


def answer(one: ChildProcess, request: ProbeSlide | RunUpscale) -> Answer:
    one.send(request)
    while isinstance(received := one.receive(120), ProgressChanged):
        pass
    return received


def peak_bytes(one: ChildProcess) -> int:
    status = Path(f"/proc/{one.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def job_of(slide: Path, output: Path, level: int, **options: Any) -> RunUpscale:
    return RunUpscale(UpscaleRequest(slide, output, model="bicubic", mpp=0.5, level=level, **options))


def write_level_of_one_tile(path: Path, tile: bytes, side: int) -> Path:
    options = {"photometric": "rgb", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.full((1024, 1024, 3), 200, np.uint8), tile=(256, 256), **options)
        shape = (512, 512, 3)
        tiff.write(repeat(tile), shape=shape, dtype=np.uint8, tile=(side, side), subfiletype=1, **options)
    return path


def test_level_of_one_huge_tile_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    slide = write_level_of_one_tile(tmp_path / "a.tif", b"x", 46_000)
    job = job_of(slide, tmp_path / "o.ome.tiff", 1)
    for role, request in [("probe", ProbeSlide(slide, "a.tif")), ("upscale", job)]:
        with child(role) as one:
            failed = answer(one, request)
            assert isinstance(failed, Failed)
            assert failed.problem.code == "slide.unsupported-pixels"
            assert "level 1" in failed.problem.detail
            assert "save the slide as a tiled" in failed.problem.detail
            assert peak_bytes(one) < 400 * MIB


def small_jpeg(side: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(made, "JPEG")
    data = bytearray(made.getvalue())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    return bytes(data)


@pytest.mark.parametrize(
    ("side", "code"),
    [(13_000, "slide.unsupported-pixels"), (9_000, "slide.unreadable"), (65_000, "slide.unsupported-pixels")],
)
def test_small_jpeg_that_declares_a_huge_image_takes_little_memory(tmp_path: Path, side: int, code: str) -> None:
    (tmp_path / "a.jpg").write_bytes(small_jpeg(side))
    assert (tmp_path / "a.jpg").stat().st_size < 700
    with child("probe") as one:
        failed = answer(one, ProbeSlide(tmp_path / "a.jpg", "a.jpg"))
        assert isinstance(failed, Failed)
        assert failed.problem.code == code
        assert peak_bytes(one) < 300 * MIB


def test_largest_accepted_image_stays_within_the_documented_memory(tmp_path: Path) -> None:
    Image.new("RGB", (10_000, 10_000), (200, 120, 180)).save(tmp_path / "a.png")
    with child("probe") as one:
        probed = answer(one, ProbeSlide(tmp_path / "a.png", "a.png"))
        assert isinstance(probed, Probed)
        assert probed.facts["width"] == 10_000
        assert 300 * MIB < peak_bytes(one) < 1400 * MIB


def test_largest_accepted_tile_is_read_by_a_job(tmp_path: Path) -> None:
    made = io.BytesIO()
    options = {"photometric": "rgb", "compression": "deflate", "metadata": None, "tile": (5632, 5632)}
    tifffile.imwrite(made, np.full((5632, 5632, 3), (200, 120, 180), np.uint8), **options)
    (tmp_path / "a.tif").write_bytes(made.getvalue())
    with child("upscale") as one:
        job = job_of(tmp_path / "a.tif", tmp_path / "o.ome.tiff", 0, region=(0, 0, 600, 600))
        assert isinstance(answer(one, job), Upscaled)
        assert peak_bytes(one) < work_memory_bytes() // 2


def test_child_of_a_job_has_a_data_limit(tmp_path: Path) -> None:
    with child("upscale") as one:
        answer(one, job_of(tmp_path / "absent.tif", tmp_path / "o.ome.tiff", 0))
        status = Path(f"/proc/{one.process.pid}/limits").read_text()
    bound = next(line.split()[3] for line in status.splitlines() if line.startswith("Max data size"))
    assert int(bound) == work_memory_bytes()


def test_probe_warns_of_a_level_that_cannot_be_decoded(
    tmp_path: Path, write_pyramid: Callable[..., Path], formula_pixels: Callable[..., Any]
) -> None:
    sound = write_level_of_one_tile(tmp_path / "a.tif", b"not deflate", 512)
    facts = probe(sound)
    assert [warning for warning in facts["warnings"] if warning.startswith("level 1 can't be decoded")]
    whole = write_pyramid(tmp_path / "b.tif", formula_pixels(Region(0, 0, 1000, 800)))
    assert [warning for warning in probe(whole)["warnings"] if "decoded" in warning] == []
