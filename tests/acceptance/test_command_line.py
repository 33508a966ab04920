"""The command line as a process: exit codes, messages, and no leftover files."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from slidelift.service.cli import main


def damaged_files() -> list[str]:
    root = Path(os.environ.get("SLIDELIFT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "damaged"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def repeated_stems(names: list[str]) -> list[str]:
    """Files whose stem occurred before: a batch would write both to the same output."""
    stems = [Path(name).stem for name in names]
    return [name for index, name in enumerate(names) if Path(name).stem in stems[:index]]


def test_info_prints_size_levels_and_recommendation(slidelift, cmu) -> None:
    done = slidelift("info", cmu)
    assert done.code == 0
    assert "2220x2967 px, 0.499 x 0.499 µm per pixel, objective 20x" in done.out
    assert "compression: jpeg, quality about 30, RGB" in done.out
    assert "recommended: compact-x2 makes 0.249 µm per pixel" in done.out
    facts = json.loads(slidelift("info", cmu, "--json").out)
    assert (facts["vendor"], facts["is_dark"]) == ("aperio", False)


def test_upscale_writes_the_file_and_its_report(slidelift, cmu, tmp_path) -> None:
    output = tmp_path / "out.ome.tiff"
    done = slidelift("upscale", cmu, output, "--region", "900,1200,300,160", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report == json.loads((tmp_path / "out.report.json").read_text("utf-8"))
    assert report["slide"]["path"] == str(cmu.absolute())
    assert report["model"]["name"] == "compact-x2"
    assert f"out.ome.tiff: {report['summary']}" in done.err
    assert report["summary"].startswith("The model enhanced ")
    assert f"out.ome.tiff: {report['model']['chosen_because']}" in done.err
    with tifffile.TiffFile(output) as tiff:
        assert tiff.series[0].shape == (320, 600, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.ome.tiff",
        "out.report.html",
        "out.report.json",
        "out.tissue.geojson",
    ]


def test_a_region_of_interest_is_read_from_a_file_and_errors_name_it(slidelift, cmu, tmp_path) -> None:
    ring = [[900, 1200], [1500, 1200], [900, 1500], [900, 1200]]
    roi, bad = tmp_path / "roi.geojson", tmp_path / "bad.geojson"
    roi.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}))
    bad.write_text("{}")
    done = slidelift("upscale", cmu, tmp_path / "o.ome.tiff", "--model", "bicubic", "--roi", roi, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["plan"]["source"] == {"x": 900, "y": 1200, "width": 600, "height": 300}
    refused = {"no geometry": [bad], "No such file": [tmp_path / "none"], "not both": [roi, "--region", "0,0,9,9"]}
    for says, wrong in refused.items():
        done = slidelift("upscale", cmu, tmp_path / "p.ome.tiff", "--roi", *wrong)
        assert done.code == 2
        assert says in done.err


def test_a_batch_continues_after_a_failing_slide(slidelift, data, cmu, tmp_path) -> None:
    bad = data / "damaged" / "text.svs"
    slides = [cmu, bad, data / "slides" / "cmu-0-small.tiff"]
    done = slidelift("upscale", *slides, tmp_path / "out", "--model", "nearest", "--region", "0,0,500,400")
    assert done.code == 2
    assert "text.svs" in done.err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        f"{stem}{suffix}"
        for stem in ("cmu-0-small", "cmu-1-small-region")
        for suffix in (".ome.tiff", ".report.html", ".report.json", ".tissue.geojson")
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["slides/prostate-with-ink.jpeg", "o.ome.tiff"], "--mpp"),
        (["slides/cmu-1-wrong-mpp.tiff", "o.ome.tiff"], "0.00499"),
        (["slides/none.svs", "o.ome.tiff"], "no such file"),
        (["slides/boxes.tiff", "o.png"], ".ome.tiff"),
        (["slides/boxes.tiff", "nowhere/o.ome.tiff", "--mpp", "1"], "no such folder"),
        (["slides/cmu-0-small.tiff", "o.ome.tiff", "--model", "none"], "compact-x4"),
        (["slides/cmu-0-small.tiff", "o.ome.tiff", "--level", "9"], "levels 0 to 2"),
        (["slides/cmu-0-small.tiff", "o.ome.tiff", "--region", "700,0,100,100"], "inside"),
        (["slides/cmu-0-small.tiff", "o.ome.tiff", "--target-mpp", "9"], "as fine as the requested 9"),
        (["slides/cmu-0-small.tiff", "o.ome.tiff", "--target-mpp", "9", "--model", "bicubic"], "it can give"),
        (["slides/cmu-0-small.tiff", "o.ome.tiff", "--model", "slides/boxes.tiff"], "boxes.tiff"),
        (["slides/dapi (387).ndpi", "o.ome.tiff"], "fluorescence"),
    ],
)
def test_user_errors_exit_with_2_and_a_message(slidelift, data, tmp_path, arguments, says) -> None:
    first, output, *rest = arguments
    rest = [str(data / part) if part.startswith("slides/") else part for part in rest]
    done = slidelift("upscale", data / first, tmp_path / output, *rest)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_wrong_flags_exit_with_2(capsys) -> None:
    for wrong in (["--quality", "0"], ["--entropy", "9"], ["--mpp", "-1"], ["--region", "1,2,3"]):
        with pytest.raises(SystemExit) as caught:
            main(["upscale", "a.svs", "b.ome.tiff", *wrong])
        assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


# These files have a separate command: a refused one, an upscaled one, and those whose stems occur twice in a batch.
ALONE = ("text.svs", "fuzz/1e220caf5759.tif", *repeated_stems(damaged_files()))


@pytest.mark.parametrize("name", [name for name in damaged_files() if name in ALONE])
def test_a_damaged_file_is_refused_by_name_or_upscaled_correctly(slidelift, data, tmp_path, name) -> None:
    slide = data / "damaged" / name
    done = slidelift("upscale", slide, tmp_path / "o.ome.tiff", "--model", "bicubic", "--mpp", "0.5")
    assert "Traceback" not in done.err
    left = sorted(path.name for path in tmp_path.iterdir())
    if done.code == 0:
        assert left == ["o.ome.tiff", "o.report.html", "o.report.json", "o.tissue.geojson"]
    else:
        assert (done.code, left) == (2, [])
        assert slide.name in done.err


@dataclass(frozen=True)
class Batch:
    """Reports of `slidelift upscale A B C … OUT --json` for each slide, and the files in OUT."""

    done: Any
    answers: dict[str, dict[str, Any]]
    left: list[str]


@pytest.fixture(scope="module")
def batches(slidelift, data, tmp_path_factory) -> list[Batch]:
    """All other damaged files in two concurrent commands."""
    names = [name for name in damaged_files() if name not in ALONE]

    def run(some: list[str]) -> Batch:
        out = tmp_path_factory.mktemp("damaged") / "out"
        slides = [data / "damaged" / name for name in some]
        done = slidelift("upscale", *slides, out, "--model", "bicubic", "--mpp", "0.5", "--json", timeout=280)
        answers = dict(zip(some, json.loads(done.out), strict=True))
        return Batch(done, answers, sorted(path.name for path in out.iterdir()))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (names[::2], names[1::2])))


@pytest.mark.parametrize("name", [name for name in damaged_files() if name not in ALONE])
def test_a_damaged_file_in_a_batch_is_refused_by_name_or_upscaled_correctly(batches, name) -> None:
    (batch,) = [batch for batch in batches if name in batch.answers]
    answer, file = batch.answers[name], Path(name)
    left = [made for made in batch.left if made.startswith(f"{file.stem}.")]
    if "error" in answer:
        assert answer["error"]["by_user"], "a command with this file alone would not exit with 2"
        assert f"error: {answer['error']['detail']}" in batch.done.err
        assert file.name in answer["error"]["detail"]
        assert left == []
    else:
        assert left == [f"{file.stem}.{end}" for end in ("ome.tiff", "report.html", "report.json", "tissue.geojson")]


def test_a_batch_of_damaged_files_ends_normally(batches) -> None:
    for batch in batches:
        assert batch.done.code == 2
        assert "Traceback" not in batch.done.err
        upscaled = [Path(name).stem for name, answer in batch.answers.items() if "error" not in answer]
        assert len(batch.left) == 4 * len(upscaled), "other files were left"


def start_upscale(slide: Path, output: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "slidelift", "upscale", str(slide), str(output), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_a_stripe(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(".slidelift-*/*.segment")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


QUICK = ("--model", "compact-x4-fast")


@pytest.fixture(scope="module")
def tall(slidelift, write_pyramid, data, tmp_path_factory) -> tuple[Path, bytes]:
    """A slide of two stripes, and the result of an undisturbed run."""
    folder = tmp_path_factory.mktemp("tall")
    tissue = np.asarray(Image.open(data / "slides" / "prostate-with-ink.jpeg").convert("RGB"))
    slide = write_pyramid(folder / "tall.tiff", np.ascontiguousarray(tissue[:250, :4096].transpose(1, 0, 2)), mpp=1.0)
    done = slidelift("upscale", slide, folder / "whole.ome.tiff", *QUICK)
    assert done.code == 0, done.err
    return slide, (folder / "whole.ome.tiff").read_bytes()


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_continues_when_repeated_and_prints_that(slidelift, tmp_path, tall, kill) -> None:
    slide, whole = tall
    process = start_upscale(slide, tmp_path / "o.ome.tiff", *QUICK)
    wait_for_a_stripe(tmp_path)
    process.send_signal(kill)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if kill is signal.SIGINT else -9)
    assert "Traceback" not in err
    assert not (tmp_path / "o.ome.tiff").exists()
    done = slidelift("upscale", slide, tmp_path / "o.ome.tiff", *QUICK)
    assert done.code == 0, done.err
    assert "continuing an interrupted run" in done.err
    assert (tmp_path / "o.ome.tiff").read_bytes() == whole


def test_the_child_dies_with_a_killed_command(tmp_path, cmu) -> None:
    import psutil

    process = start_upscale(cmu, tmp_path / "o.ome.tiff")
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 60

    def upscales(child: psutil.Process) -> bool:
        try:
            return "upscale" in child.cmdline()
        except psutil.Error:  # the probe's process may have just ended
            return False

    while not any(map(upscales, parent.children())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = parent.children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_memory_depends_on_the_width_not_the_height(slidelift, tmp_path, data) -> None:
    tool = data.parent / "tools" / "make_big_slide.py"
    peaks = []
    for size in ("6000x6000", "6000x12000"):
        slide = tmp_path / f"{size}.tiff"
        subprocess.run([sys.executable, str(tool), str(slide), "--size", size], check=True, capture_output=True)
        done = slidelift(
            "upscale", slide, tmp_path / "o.ome.tiff", "--model", "bicubic", timeout=280, watch_memory=True
        )
        assert done.code == 0, done.err
        peaks.append(done.peak_bytes)
    assert max(peaks) / min(peaks) < 1.10, [peak / 1e6 for peak in peaks]


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_large_slide_stays_under_one_and_a_half_gigabytes(slidelift, tmp_path, data) -> None:
    tool = data.parent / "tools" / "make_big_slide.py"
    slide = tmp_path / "big.tiff"
    subprocess.run([sys.executable, str(tool), str(slide), "--size", "20000x16000"], check=True, capture_output=True)
    done = slidelift("upscale", slide, tmp_path / "o.ome.tiff", "--model", "bicubic", timeout=1200, watch_memory=True)
    assert done.code == 0, done.err
    assert done.peak_bytes < 1.5e9


def test_models_and_doctor_succeed(slidelift) -> None:
    assert "compact-x4 (auto, balanced)" in slidelift("models").out
    done = slidelift("doctor")
    assert done.code == 0, done.out
    assert "passes its self-test" in done.out


def test_code_in_the_current_folder_is_not_executed(tmp_path, cmu) -> None:
    (tmp_path / "numpy.py").write_text("open('executed', 'w').close()\n", "utf-8")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    command = [str(Path(sys.executable).parent / "slidelift"), "info", str(cmu)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("seconds", [0.8, 1.6])
def test_ctrl_c_works_during_startup(tmp_path, cmu, seconds) -> None:
    process = start_upscale(cmu, tmp_path / "o.ome.tiff")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 130, err
    assert not (tmp_path / "o.ome.tiff").exists()


def test_foreign_files_in_a_zarr_are_kept(slidelift, data, tmp_path) -> None:
    command = ["upscale", data / "slides" / "cmu-0-small.tiff", tmp_path / "o.ome.zarr", "--model", "nearest"]
    assert slidelift(*command).code == 0
    assert slidelift(*command).code == 0
    (tmp_path / "o.ome.zarr" / "labels").mkdir()
    done = slidelift(*command)
    assert (done.code, "labels" in done.err) == (2, True)
    assert (tmp_path / "o.ome.zarr" / "labels").is_dir()


def test_a_slide_whose_report_cannot_be_written_does_not_end_the_batch(slidelift, data, tmp_path) -> None:
    small = data / "slides" / "cmu-0-small.tiff"
    (tmp_path / "out" / "a.report.json").mkdir(parents=True)
    for name in ("a.tiff", "b.tiff"):
        (tmp_path / name).write_bytes(small.read_bytes())
    done = slidelift("upscale", tmp_path / "a.tiff", tmp_path / "b.tiff", tmp_path / "out", "--model", "nearest")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert (tmp_path / "out" / "b.report.json").is_file()


def test_an_overridden_pixel_size_gets_a_warning(slidelift, data, tmp_path) -> None:
    small = data / "slides" / "cmu-0-small.tiff"
    done = slidelift("upscale", small, tmp_path / "o.ome.tiff", "--model", "nearest", "--mpp", "0.25")
    assert "the slide states 3.19" in done.err


def test_a_wrong_setting_prints_one_line(slidelift) -> None:
    done = slidelift("serve", "--port", "99999")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "port" in done.err
