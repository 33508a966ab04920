"""A result replaces only files of this program: no input and no file of another origin."""

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from slidelift.service.errors import Problem, ServiceError
from slidelift.service.pipeline.progress import Stage
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.targets import signed_report
from slidelift.service.pipeline.upscale import upscale
from slidelift.wsi.geometry import Region

COMPANIONS = ("o.report.html", "o.tissue.geojson", "o.report.json")


@pytest.fixture
def request_of(tmp_path, write_png) -> Callable[..., UpscaleRequest]:
    """A request that takes a moment; its slide is called slide.png, its output o.ome.tiff."""

    def make(output: str = "o.ome.tiff", **changes) -> UpscaleRequest:
        slide = tmp_path / "slide.png"
        if not slide.exists():
            write_png(300, 200)
        return UpscaleRequest(slide, tmp_path / output, **{"model": "nearest", "mpp": 1.0, **changes})

    return make


def seen(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(request: UpscaleRequest) -> Problem:
    """The problem of a request that is refused before the work and changes no file."""
    before, stages = seen(request.output.parent), []
    with pytest.raises(ServiceError) as caught:
        upscale(request, lambda progress: stages.append(progress.stage))
    assert stages == []
    assert seen(request.output.parent) == before
    return caught.value.problem


@pytest.mark.parametrize("name", COMPANIONS)
@pytest.mark.parametrize("text", [b"", b"my own", b"{}", b"\xff", b'{"type": "FeatureCollection", "features": []}'])
def test_companion_of_another_origin_is_kept(request_of, tmp_path, name, text) -> None:
    (tmp_path / name).write_bytes(text)
    found = refused(request_of())
    assert (found.code, found.by_user) == ("request.output", True)
    assert name in found.detail


def test_a_result_and_its_companions_are_replaced_by_the_next(request_of, tmp_path) -> None:
    for name in ("o.ome.tiff", "p.ome.zarr"):
        report = upscale(request_of(name))
        stem = name.partition(".")[0]
        signed = json.dumps(signed_report(report.as_dict()))  # as the command line does
        (tmp_path / f"{stem}.report.json").write_text(signed)
        before = (tmp_path / f"{stem}.report.html").read_bytes()
        assert upscale(request_of(name, model="bicubic")).model.name == "bicubic"
        assert (tmp_path / f"{stem}.report.html").read_bytes() != before


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("o.ome.tiff", "o.ome.zarr"),
        ("o.ome.zarr", "o.ome.tiff"),
        ("o.ome.tiff", "o.ome.tif"),
        ("o.ome.tif", "o.OME.TIFF"),
    ],
)
def test_companions_of_another_format_are_kept(request_of, first, second) -> None:
    upscale(request_of(first))
    found = refused(request_of(second))
    assert "o.report.html is there, and was not made with" in found.detail
    shutil.rmtree(request_of(first).output, ignore_errors=True)
    request_of(first).output.unlink(missing_ok=True)
    refused(request_of(second))  # nor where the result was moved away


@pytest.mark.parametrize("name", ["o.report.html", "o.tissue.geojson", "o.report.json"])
def test_edited_companion_is_kept(request_of, tmp_path, name) -> None:
    report = upscale(request_of(entropy=0))
    (tmp_path / "o.report.json").write_text(json.dumps(signed_report(report.as_dict())))
    target = tmp_path / name
    text = target.read_text("utf-8")
    if name.endswith("geojson"):
        value = json.loads(text)
        value["features"][0]["properties"]["name"] = "seen by me"
        text = json.dumps(value)
    elif name.endswith("json"):
        text = json.dumps({**json.loads(text), "note": "seen by me"})
    else:
        text = text.replace("</body>", "<p>seen by me</p></body>")
        assert "seen by me" in text
    target.write_text(text, "utf-8")
    assert name in refused(request_of(entropy=0)).detail


def test_folder_in_place_of_a_companion_is_refused_before_the_work(request_of, tmp_path) -> None:
    for name in COMPANIONS:
        (tmp_path / name).mkdir()
        assert refused(request_of()).code == "request.output"
        (tmp_path / name).rmdir()


def foreign(path: Path, kind: str) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    if kind == "ome":
        tifffile.imwrite(path, pixels, photometric="rgb", metadata={"axes": "YXS"}, ome=True)
    elif kind == "tiff":
        tifffile.imwrite(path, pixels, photometric="rgb")
    elif kind == "cut":
        path.write_bytes(b"II*\0\x08\0\0\0\xff\xff\xff")
    elif kind == "empty":
        path.touch()
    elif kind == "link to nothing":
        path.symlink_to("nowhere")
    else:
        group = zarr.create_group(str(path), zarr_format=2, attributes={"multiscales": []})
        group.create_array("0", shape=(3, 8, 8), chunks=(1, 8, 8), dtype="u1")
        (path / "OME").mkdir()
        (path / "OME" / "METADATA.ome.xml").write_text('<OME Creator="another program"/>')


@pytest.mark.parametrize("kind", ["ome", "tiff", "cut", "empty", "link to nothing", "zarr"])
def test_image_of_another_program_is_kept(request_of, kind) -> None:
    request = request_of("o.ome.zarr" if kind == "zarr" else "o.ome.tiff")
    foreign(request.output, kind)
    assert "is no result of this program: it would be lost" in refused(request).detail


def named(path: Path, target: Path, spelling: str) -> Path:
    """The same file under another spelling, or at a result's or companion's place."""
    if spelling == "symlink":
        target.symlink_to(path)
    elif spelling == "hard link":
        target.hardlink_to(path)
    else:
        path.rename(target)
        return target.parent / "." / ".." / target.parent.name / target.name
    return path


@pytest.mark.parametrize("spelling", ["symlink", "hard link", "other spelling"])
@pytest.mark.parametrize("place", ["o.ome.tiff", *COMPANIONS])
def test_no_input_is_replaced_under_any_name(request_of, tmp_path, place, spelling) -> None:
    request = request_of()
    slide = named(request.slide, tmp_path / place, spelling)
    assert "is the slide itself" in refused(replace(request, slide=slide)).detail


def test_a_slide_in_a_folder_that_would_be_replaced_is_kept(request_of, tmp_path) -> None:
    request = request_of("o.ome.zarr")
    upscale(request)
    inside = request.slide.rename(request.output / "0" / "slide.png")
    assert "is the slide itself" in refused(replace(request, slide=inside)).detail


def test_weights_are_not_replaced(request_of, tmp_path) -> None:
    request = request_of()
    weights = tmp_path / "o.report.html"
    shutil.copy(next(iter((Path(__file__).parents[3] / "models").rglob("*.safetensors"))), weights)
    assert "is the file of weights itself" in refused(replace(request, model=str(weights))).detail


def test_file_that_appears_during_the_work_is_kept_and_so_is_the_work(request_of, tmp_path) -> None:
    request = request_of()

    def drop(progress) -> None:
        if progress.stage is Stage.VERIFYING:
            (tmp_path / "o.tissue.geojson").write_text("drawn meanwhile")

    with pytest.raises(ServiceError, match=r"o\.tissue\.geojson is there"):
        upscale(request, drop)
    assert (tmp_path / "o.tissue.geojson").read_text() == "drawn meanwhile"
    assert not request.output.exists()
    (tmp_path / "o.tissue.geojson").unlink()
    assert upscale(request).stripes.resumed == 1


@pytest.mark.parametrize(
    ("stem", "fits"), [("a" * 240, True), ("a" * 241, False), ("ä" * 120, True), ("ä" * 121, False)]
)
@pytest.mark.parametrize("suffix", [".ome.tiff", ".ome.zarr"])
def test_longest_name_is_checked_before_the_work(request_of, stem, fits, suffix) -> None:
    """The stem and .tissue.geojson have 255 bytes together."""
    request = request_of(f"{stem}{suffix}")
    if fits:
        upscale(request)
        assert request.output.exists()
        return
    found = refused(request)
    assert ("allows 255" in found.detail, found.by_user) == (True, True)


@pytest.mark.parametrize("suffix", [".ome.tiff", ".ome.zarr"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_names_need_not_be_utf_8(tmp_path, write_png, write_pyramid, formula_pixels, kind, suffix) -> None:
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    slide = folder / os.fsdecode(b"Gr\xf6\xdfe." + kind.encode())
    if kind == "png":
        write_png(300, 200).rename(slide)
    else:
        write_pyramid(tmp_path / "s.tiff", formula_pixels(Region(0, 0, 300, 200))).rename(slide)
    output = folder / f"{slide.stem}{suffix}"
    upscale(UpscaleRequest(slide, output, model="nearest", mpp=1.0))
    upscale(UpscaleRequest(slide, output, model="bicubic", mpp=1.0))
    names = {os.fsencode(path.name) for path in folder.iterdir()}
    assert names >= {b"Gr\xf6\xdfe" + end for end in (suffix.encode(), b".report.html", b".tissue.geojson")}


def test_names_are_compared_as_the_file_system_does(request_of, tmp_path) -> None:
    composed, apart = (unicodedata.normalize(form, "ö.ome.tiff") for form in ("NFC", "NFD"))
    upscale(request_of(composed))
    upscale(request_of(apart))
    assert len(list(tmp_path.glob("*.ome.tiff"))) == len(list(tmp_path.glob("*.report.html")))
