"""The README's sessions are run as they stand, but for the port and the folder."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).resolve().parents[2]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.fixture
def slide(data: Path, tmp_path: Path, write_pyramid: Callable[..., Path]) -> Path:
    """The sessions' slide.svs: a corner of a real one, not square."""
    pixels = tifffile.imread(data / "slides" / "cmu-0-small.tiff", level=0)
    return write_pyramid(tmp_path / "slide.svs", np.ascontiguousarray(pixels[100:300, 200:560]), mpp=3.19)


def test_the_curl_session_gives_a_pyramid(slide, tmp_path) -> None:
    (session,) = [block for block in blocks("sh") if "curl" in block]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = f"{sys.executable} -m slidelift serve --port {port} --data-dir {tmp_path / 'data'} 2>/dev/null"
    assert "make serve &" in session
    session = session.replace("make serve", serve).replace("localhost:8000", f"localhost:{port}")
    shell = subprocess.Popen(["bash", "-ec", session], cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        assert shell.wait(timeout=200) == 0
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
    with tifffile.TiffFile(tmp_path / "result.ome.tiff") as tiff:
        assert tiff.series[0].shape == (800, 1440, 3)


def test_the_session_from_another_machine_brings_results(service, data, write_pyramid, tmp_path, monkeypatch) -> None:
    (session,) = [block for block in blocks("sh") if "SLIDELIFT_SERVICE" in block]
    (example,) = [block for block in blocks("python") if "slidelift.service.client" in block]
    pixels = tifffile.imread(data / "slides" / "cmu-0-small.tiff", level=0)
    write_pyramid(tmp_path / "slide.svs", np.ascontiguousarray(pixels[:512]), mpp=3.19)  # the region, and beside it
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "slidelift").write_text(f'#!/bin/sh\nexec {sys.executable} -m slidelift "$@"\n')
    (commands / "slidelift").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-ec", session.replace("http://127.0.0.1:8000", service.address)], check=True, timeout=200)
    exec(example.replace("http://127.0.0.1:8000", service.address), {})
    for name, shape in (("results/slide", (2048, 2872)), ("region", (2048, 2048)), ("result", (2048, 2872))):
        with tifffile.TiffFile(f"{name}.ome.tiff") as tiff:
            assert tiff.series[0].shape[:2] == shape
    assert Path("region.report.json").is_file()


def test_the_python_example_gives_a_report(slide, tmp_path, monkeypatch) -> None:
    (example,) = [block for block in blocks("python") if "slidelift.service.pipeline" in block]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["report"].output.width == 1440
    assert (tmp_path / "slide-4x.ome.tiff").exists()
