"""`slidelift patches` and `slidelift entropy` as processes, on real slides."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import openslide
import pytest
from PIL import Image

from slidelift.wsi.geometry import Region


def test_patches_contain_tissue_and_unusable_slides_are_named(slidelift, cmu, data, tmp_path) -> None:
    out = tmp_path / "out"
    slides = [data / "damaged" / "text.svs", data / "slides" / "prostate-with-ink.jpeg", cmu]
    done = slidelift("patches", *slides, "--out", out, "--mpp", "0.499", "--size", "256", "--max", "12")
    assert done.code == 2
    assert "text.svs" in done.err
    assert "--source-mpp" in done.err
    assert "Traceback" not in done.err
    assert "\r" not in done.err, "no progress bar without a terminal"
    index = json.loads((out / "patches.json").read_text("utf-8"))
    assert len(index["patches"]) == index["slides"][0]["counts"]["kept"] == 12
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(patch["file"] for patch in index["patches"]), "patches.json"]
    )
    with openslide.OpenSlide(cmu) as slide:
        for patch in index["patches"]:
            x, y, *size = patch["region"]
            expected = np.asarray(slide.read_region((x, y), 0, size).convert("RGB"))
            assert (np.asarray(Image.open(out / patch["file"])) == expected).all()
            assert patch["entropy"] >= 3


def test_enlarging_is_refused_with_exit_code_2(slidelift, cmu, tmp_path) -> None:
    done = slidelift("patches", cmu, "--out", tmp_path / "out", "--mpp", "0.25")
    assert (done.code, done.out) == (2, "")
    assert "0.499" in done.err


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_continues_when_repeated_and_leaves_no_partial_file(
    slidelift, tmp_path, write_pyramid, formula_pixels, kill
) -> None:
    slide = write_pyramid(tmp_path / "slide.tiff", formula_pixels(Region(0, 0, 2560, 2048)))
    arguments = ["patches", slide, "--mpp", "0.5", "--size", "96", "--entropy", "0", "--out"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "slidelift", *map(str, arguments), str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("*.png")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(kill)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if kill is signal.SIGINT else -9)
    assert "Traceback" not in err
    made = {path: path.stat().st_ino for path in out.glob("*.png")}
    assert 0 < len(made) < 26 * 21, "the run must be killed before its end"
    for path in made:
        assert np.asarray(Image.open(path)).shape == (96, 96, 3)
    assert slidelift(*arguments, out).code == 0
    kept = [path for path, inode in made.items() if path.stat().st_ino == inode]
    assert len(kept) >= len(made) - 1, "only a patch without a line in the index may be made again"
    assert slidelift(*arguments, tmp_path / "whole").code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


def test_entropy_is_printed_for_each_image_and_for_all(slidelift, data) -> None:
    images = sorted((data / "eval" / "tnbc").glob("*.png"))[:3]
    done = slidelift("entropy", *images, "--reduce", "4")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[0] for row in rows[1:5]] == [*(image.name for image in images), "all"]
    assert ["7.0", "0.0%"] in rows
