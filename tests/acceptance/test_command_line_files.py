"""File names, folders, file systems and incomplete installations: how the command line handles them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slidelift.durable import sync_folder, write_atomically


def run(*arguments: object, path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; modules in the folder `path` take precedence."""
    known = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    paths = os.pathsep.join([str(path)] * (path is not None) + [one for one in known if one])
    command = [sys.executable, "-m", "slidelift", *(os.fsencode(str(one)) for one in arguments)]
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, cwd=cwd)


@pytest.fixture
def small(data, tmp_path) -> Path:
    """A small slide named one.tiff."""
    slide = tmp_path / "one.tiff"
    slide.write_bytes((data / "slides" / "cmu-0-small.tiff").read_bytes())
    return slide


@pytest.mark.parametrize("out", ["new/", "new", "new/deep/", "v1.2/"])
def test_missing_output_folder_is_created(small, tmp_path, out) -> None:
    done = run("upscale", small, f"{tmp_path}/{out}", "--model", "nearest")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / out).iterdir())
    assert names == ["one.ome.tiff", "one.report.html", "one.report.json", "one.tissue.geojson"]


def test_unusable_output_is_a_user_error(small, tmp_path) -> None:
    (tmp_path / "file").touch()
    for out in ("file/", "file", "file/new/", "o.png"):
        done = run("upscale", small, f"{tmp_path}/{out}", "--model", "nearest", "--json")
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert json.loads(done.stdout)["error"]["code"] in ("request.output", "request.format")
    assert (tmp_path / "file").read_bytes() == b""


def test_empty_output_name_is_refused(tmp_path, small) -> None:
    done = run("upscale", small, "", "--model", "nearest", cwd=tmp_path)
    assert done.returncode == 2
    assert "OUT is empty" in done.stderr
    assert list(tmp_path.iterdir()) == [small]


@pytest.mark.parametrize(
    ("name", "code", "exit_code"), [("none.svs", "slide.unreadable", 2), ("text.svs", "slide.unreadable", 2)]
)
def test_info_prints_errors_as_json(tmp_path, name, code, exit_code) -> None:
    if name == "text.svs":
        (tmp_path / name).write_text("no slide")
    done = run("info", "--json", tmp_path / name)
    assert done.returncode == exit_code
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["by_user"]) == (code, True)
    assert error["detail"] in done.stderr
    assert run("info", tmp_path / name).stdout == ""


def broken(folder: Path, *modules: str) -> Path:
    """Write modules that raise ModuleNotFoundError, as if they were not installed."""
    for name in modules:
        (folder / name).mkdir(parents=True)
        text = f"No module named '{name}'"
        (folder / name / "__init__.py").write_text(f"raise ModuleNotFoundError({text!r}, name={name!r})")
    return folder


@pytest.mark.parametrize("missing", [("torch",), ("openslide", "tiffslide"), ("pydantic",)])
def test_doctor_lists_missing_modules(tmp_path, missing) -> None:
    done = run("doctor", path=broken(tmp_path / "modules", *missing), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("MISSING")]
    for name in missing:
        assert any(f"No module named '{name}'" in line for line in lines)
    assert all("ok" in line[:8] for line in done.stdout.splitlines() if line not in lines)
    assert len(lines) <= 2 * len(missing) + 1


def test_names_that_are_not_utf_8_are_kept(small, tmp_path) -> None:
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    slide = small.rename(folder / os.fsdecode(b"Gr\xf6\xdfe.tiff"))
    output = folder / os.fsdecode(b"Gr\xf6\xdfe.ome.tiff")
    roi = folder / os.fsdecode(b"\xe9.geojson")
    ring = [[0, 0], [200, 0], [200, 200], [0, 0]]
    roi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    done = run("upscale", slide, output, "--model", "nearest", "--roi", roi, "--json")
    assert done.returncode == 0, done.stderr
    for report in (json.loads(done.stdout), json.loads(output.with_name(f"{slide.stem}.report.json").read_bytes())):
        assert (report["slide"]["path"], report["output"]["path"]) == (str(slide), str(output))
    assert "\\udcf6" in done.stderr
    assert (folder / f"{slide.stem}.report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    json.loads((folder / f"{slide.stem}.tissue.geojson").read_text("utf-8"))
    assert run("info", slide).returncode == 0
    assert json.loads(run("info", "--json", slide).stdout)["width"] > 0
    missing = run("info", "--json", folder / os.fsdecode(b"\xff.tiff"))
    assert "\udcff.tiff" in json.loads(missing.stdout)["error"]["detail"]
    again = run("upscale", slide, folder, "--model", "nearest", "--json")
    assert again.returncode == 0, again.stderr


def test_region_of_interest_file_is_not_overwritten_by_the_tissue_outlines(small, tmp_path) -> None:
    roi = tmp_path / "one.tissue.geojson"
    roi.write_text(json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [200, 0], [200, 200], [0, 0]]]}))
    before = roi.read_bytes()
    link = tmp_path / "link.geojson"
    link.symlink_to(roi)
    for spelling in (roi, link, tmp_path / "." / roi.name):
        done = run("upscale", small, tmp_path / "one.ome.tiff", "--model", "nearest", "--roi", spelling)
        assert done.returncode == 2
        assert "one.tissue.geojson is the region of interest itself" in done.stderr
    assert roi.read_bytes() == before
    assert not (tmp_path / "one.ome.tiff").exists()


def test_output_that_is_another_slide_of_the_command_is_refused(small, tmp_path) -> None:
    other = tmp_path / "one.ome.tiff"
    other.write_bytes(small.read_bytes())
    done = run("upscale", small, other, tmp_path, "--model", "nearest")
    assert done.returncode == 2
    assert "one.ome.tiff is a slide to be upscaled itself" in done.stderr
    assert other.read_bytes() == small.read_bytes()


_NO_LOCKS = """
import errno, fcntl, os
def flock(*_): raise OSError(errno.{number}, os.strerror(errno.{number}))
fcntl.flock = flock
"""
_NO_SYNC = """
import errno, os, stat
original = os.fsync
def fsync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode): raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    original(descriptor)
os.fsync = fsync
"""


@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_file_system_without_locks_is_refused(small, tmp_path, number) -> None:
    """A sitecustomize module makes `flock` fail in the command's processes."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(_NO_LOCKS.format(number=number))
    done = run("upscale", small, tmp_path / "o.ome.tiff", "--model", "nearest", path=tmp_path / "modules")
    assert done.returncode == 2, done.stderr
    assert "has no file locks" in done.stderr
    assert not (tmp_path / "o.ome.tiff").exists()


@pytest.mark.parametrize("name", ["o.ome.tiff", "o.ome.zarr"])
def test_file_system_that_cannot_sync_folders_is_accepted(small, tmp_path, name) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(_NO_SYNC)
    done = run("upscale", small, tmp_path / name, "--model", "nearest", path=tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.report.json").is_file()


def test_disk_error_while_syncing_a_folder_is_raised(tmp_path, monkeypatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)


def test_file_with_the_longest_possible_name_is_written_atomically(tmp_path) -> None:
    path = tmp_path / ("n" * 255)
    write_atomically(path, b"all of it")
    assert path.read_bytes() == b"all of it"
    assert list(tmp_path.iterdir()) == [path]


def test_first_line_says_that_no_tile_was_enhanced(data, tmp_path) -> None:
    picture = data / "odd" / "k03-dithered-gif-colours.png"
    done = run("upscale", picture, tmp_path / "o.ome.tiff", "--mpp", "1", "--model", "compact-x4", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["tiles"]["enhanced"] == 0
    assert f"the model enhanced 0 of {report['tiles']['total']} tiles." in report["summary"]
    assert next(iter(report)) == "summary"
    assert done.stderr.splitlines()[0] == f"o.ome.tiff: {report['summary']}"
