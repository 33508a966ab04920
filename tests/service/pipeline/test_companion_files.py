"""The report, page and tissue outlines of a result; regions of interest."""

import base64
import hashlib
import io
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from slidelift.service.errors import Cancelled, ServiceError
from slidelift.service.pipeline.options import BadTilePolicy
from slidelift.service.pipeline.progress import CancelToken, Stage
from slidelift.service.pipeline.report import Report
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.targets import COMPANIONS
from slidelift.service.pipeline.upscale import upscale
from slidelift.service.pipeline.workspace import Workspace
from slidelift.service.processes.runner import Runner
from slidelift.wsi.errors import RoiError, VerificationError
from slidelift.wsi.geometry import Region
from slidelift.wsi.roi import Roi

TRIANGLE = {"type": "Polygon", "coordinates": [[[300, 20], [900, 20], [300, 700], [300, 20]]]}


def pixels_of(output: Path) -> np.ndarray:
    return np.moveaxis(np.asarray(zarr.open_group(str(output), mode="r", zarr_format=2)["0"][:]), 0, -1)


def companions(output: Path) -> tuple[Path, Path]:
    stem = output.name.removesuffix(".ome.tiff").removesuffix(".ome.zarr")
    return output.with_name(f"{stem}.report.html"), output.with_name(f"{stem}.tissue.geojson")


def area(coordinates: list) -> float:
    return sum((x1 * y2 - x2 * y1) / 2 for ring in coordinates for (x1, y1), (x2, y2) in pairwise(ring))


class Page(HTMLParser):
    """Parses a page; fails at external resources, scripts and unclosed tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.alts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        assert tag not in {"script", "iframe", "object", "link", "base"}
        assert not any(name.startswith("on") for name in values)
        assert values.get("src", "data:").startswith("data:")
        assert "href" not in values
        if tag == "img":
            self.alts.append(values["alt"])
            Image.open(io.BytesIO(base64.b64decode(values["src"].partition(",")[2]))).verify()
        if tag not in {"img", "meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(cmu, tmp_path_factory) -> tuple[Path, Report]:
    """A real region of three by four tiles with glass, tissue and an edge."""
    output = tmp_path_factory.mktemp("made") / "made.ome.tiff"
    request = UpscaleRequest(cmu, output, model="espcn-x4", region=(500, 0, 700, 900))
    return output, upscale(request)


def test_every_tile_is_in_the_map_and_in_the_counts(made) -> None:
    _, report = made
    tiles = report.tiles
    letters = "".join(tiles.map)
    assert [len(row) for row in tiles.map] == [3] * 4
    assert letters.count("t") == tiles.enhanced == tiles.tissue == tiles.consistency.measured > 3
    assert (letters.count("r"), letters.count("g")) == (tiles.rejected, tiles.glass)
    assert tiles.rejected + tiles.glass > 0
    assert len(letters) == tiles.total


def test_summary_counts_the_enhanced_tiles(made) -> None:
    output, report = made
    assert report.summary == f"The model enhanced {report.tiles.enhanced} of {report.tiles.tissue} tissue tiles."
    assert not report.tiles.few_enhanced
    page = output.with_name("made.report.html").read_text("utf-8")
    assert page.index(report.summary) < page.index("Computed image")
    assert f'<p class="summary"><strong>{report.summary}' in page


def test_consistency_is_ordered_and_locates_the_worst_tile(made) -> None:
    found = made[1].tiles.consistency
    assert 0.2 < found.median <= found.p95 <= found.worst.rmse < 10
    x, y, width, height = found.worst.output_region
    assert (x, y) == (found.worst.column * 1024, found.worst.row * 1024)
    assert found.worst.region == (500 + x // 4, y // 4, width // 4, height // 4)


def test_exact_tiles_show_no_seam(made) -> None:
    seam = made[1].seam
    assert 0.9 < seam.figure < 1.1
    assert seam.figure == pytest.approx(seam.result / seam.source, abs=2e-4)
    assert seam.pixels > 0


def test_report_has_hashes_model_and_seconds(made, cmu) -> None:
    output, report = made
    assert report.output.sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
    assert report.slide.sha256 == hashlib.sha256(cmu.read_bytes()).hexdigest()
    assert report.model.licence == "Apache-2.0"
    assert report.model.architecture == "espcn"
    assert report.model.source_mpp == (0.8, 2.2)
    assert list(asdict(report.seconds_by_stage)) == list(Stage)
    assert sum(asdict(report.seconds_by_stage).values()) <= report.seconds + 0.01
    assert 0 < report.device_busy <= 1


def test_page_is_self_contained_and_complete(made) -> None:
    output, report = made
    text = companions(output)[0].read_text("utf-8")
    page = Page(text)
    assert "Computed image — not for primary diagnosis" in text
    assert len(page.alts) == len(set(page.alts)) == 2 + 6 + 1 + 2
    assert all(page.alts)
    for told in (
        report.output.sha256,
        report.model.weights_sha256,
        f"worst {report.tiles.consistency.worst.rmse:.2f}",
        f"<b>{report.seam.figure:.2f}</b>",
        "Apache-2.0",
        "was trained for 0.8 to 2.2",
    ):
        assert told in text
    words = re.sub(r"base64,[^\"]*", "", text)
    assert "://" not in words
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|\b\d\d:\d\d\b", words)
    assert len(text) < 4_000_000


def test_tissue_outlines_cover_exactly_the_tissue_tiles(made) -> None:
    output, report = made
    found = json.loads(companions(output)[1].read_text("utf-8"))
    size = report.output.width, report.output.height
    truth = sum(
        (min(x + 1024, size[0]) - x) * (min(y + 1024, size[1]) - y)
        for y, row in zip(range(0, size[1], 1024), report.tiles.map, strict=True)
        for x, mark in zip(range(0, size[0], 1024), row, strict=True)
        if mark == "t"
    )
    assert sum(area(one["geometry"]["coordinates"]) for one in found["features"]) == truth
    assert {one["properties"]["classification"]["name"] for one in found["features"]} == {"Tissue"}


def test_warning_of_tiles_that_differ_from_their_source(tmp_path, cmu, monkeypatch) -> None:
    monkeypatch.setattr("slidelift.service.pipeline.report_builder.STRAY_RMSE", 0.1)
    request = UpscaleRequest(cmu, tmp_path / "o.ome.tiff", model="compact-x4-fast", region=(900, 1200, 300, 200))
    report = upscale(request)
    worst = report.tiles.consistency.worst.rmse
    assert any(f"the worst by {worst:.1f} at x" in warning for warning in report.warnings)
    assert not any("the worst" in warning for warning in upscale(replace(request, model="bicubic")).warnings)


def test_model_output_far_from_its_source_is_replaced(tmp_path, cmu, monkeypatch) -> None:
    """The tile is resampled instead, and the report lists it."""
    monkeypatch.setattr("slidelift.service.pipeline.tile_upscaling.MAX_BLOCK_RMSE", 0.01)
    request = UpscaleRequest(cmu, tmp_path / "o.ome.tiff", model="compact-x4-fast", region=(900, 1200, 300, 200))
    report = upscale(request)
    assert [(bad.row, bad.column) for bad in report.tiles.bad] == [(0, 0), (0, 1)]
    assert {bad.remedy for bad in report.tiles.bad} == {"tile resampled plainly"}
    assert report.tiles.map == ("ss",)
    assert (report.tiles.enhanced, report.tiles.strayed, report.tiles.tissue) == (0, 2, 2)
    assert report.summary == "The model enhanced 0 of 2 tissue tiles."
    assert report.tiles.few_enhanced
    assert f'<p class="warning"><strong>{report.summary}' in (tmp_path / "o.report.html").read_text("utf-8")
    assert any(warning.startswith("2 tiles were resampled plainly") for warning in report.warnings)
    plain = replace(request, output=tmp_path / "plain.ome.tiff", model="bicubic")
    assert upscale(plain).tiles.bad == ()
    with tifffile.TiffFile(request.output) as made, tifffile.TiffFile(plain.output) as resampled:
        assert (made.series[0].asarray() == resampled.series[0].asarray()).all()


def test_nearest_neighbour_has_no_consistency_error(tmp_path, write_png) -> None:
    """At every scale, including tiles at the edge."""
    for scale in (1, 2, 3, 4):
        report = upscale(
            UpscaleRequest(
                write_png(600, 300), tmp_path / "o.ome.zarr", model="nearest", mpp=1.0, target_mpp=1 / scale, entropy=0
            )
        )
        assert report.tiles.map == ("ttt", "ttt")
        assert report.tiles.consistency.worst.rmse == 0


def test_report_of_a_resumed_run_covers_earlier_stripes(tmp_path, write_png) -> None:
    request = UpscaleRequest(write_png(500, 5000), tmp_path / "whole.ome.tiff", model="bicubic", mpp=1.0)
    whole, token = upscale(request), CancelToken()

    def stop_late(progress) -> None:
        if progress.tiles_done > 20:
            token.cancel()

    again = replace(request, output=tmp_path / "again.ome.tiff")
    with pytest.raises(Cancelled):
        upscale(again, stop_late, token)
    resumed = upscale(again)
    assert resumed.stripes.resumed == 1
    assert resumed.tiles == whole.tiles
    assert resumed.seam == whole.seam


def test_bad_tiles_are_in_map_page_and_geojson(tmp_path, data) -> None:
    request = UpscaleRequest(
        data / "damaged" / "cmu-bitflip-tiles.svs",
        tmp_path / "o.ome.tiff",
        model="bicubic",
        region=(768, 1024, 512, 512),
        on_bad_tile=BadTilePolicy.MARK,
    )
    report = upscale(request)
    bad = {(one.row, one.column) for one in report.tiles.bad}
    marked = {(r, c) for r, row in enumerate(report.tiles.map) for c, mark in enumerate(row) if mark == "b"}
    assert bad == marked != set()
    page, geojson = companions(request.output)
    assert page.read_text("utf-8").count('<tr><th scope="row">') >= len(bad)
    names = [one["properties"]["classification"]["name"] for one in json.loads(geojson.read_text())["features"]]
    assert "Unreadable" in names


def test_companions_are_replaced_with_their_result_and_kept_when_a_run_fails(tmp_path, write_png, monkeypatch) -> None:
    request = UpscaleRequest(write_png(300, 300), tmp_path / "o.ome.tiff", model="nearest", mpp=1.0)
    upscale(request)
    before = [path.read_bytes() for path in companions(request.output)]

    def refuse(*_, **__) -> None:
        raise VerificationError("on purpose")

    with monkeypatch.context() as broken:
        broken.setattr("slidelift.service.pipeline.upscale.verify", refuse)
        with pytest.raises(VerificationError):
            upscale(replace(request, model="bicubic"))
        with pytest.raises(VerificationError):
            upscale(replace(request, output=tmp_path / "never.ome.tiff"))
    assert [path.read_bytes() for path in companions(request.output)] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "o.ome.tiff",
        "o.report.html",
        "o.tissue.geojson",
        "slide.png",
    ]
    upscale(replace(request, model="bicubic"))
    assert "bicubic" in companions(request.output)[0].read_text("utf-8")


@pytest.mark.parametrize("suffix", ["tiff", "zarr"])
def test_earlier_files_are_kept_when_publishing_fails(tmp_path, suffix) -> None:
    output = tmp_path / f"out.ome.{suffix}"
    if suffix == "zarr":
        output.mkdir()
    earlier = [output / ".zattrs" if suffix == "zarr" else output, *(tmp_path / f"out.{name}" for name in COMPANIONS)]
    for path in earlier:
        path.write_text("of an earlier run")
    with Workspace(output) as workspace:
        for name in COMPANIONS:
            workspace.write_companion(name, "new")
        with pytest.raises(FileNotFoundError):  # somebody has removed the joined result
            workspace.publish()
    assert [path.read_text() for path in earlier] == ["of an earlier run"] * len(earlier)
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_left_when_publishing_a_first_result_fails(tmp_path) -> None:
    with Workspace(tmp_path / "out.ome.tiff") as workspace:
        for name in COMPANIONS:
            workspace.write_companion(name, "new")
        with pytest.raises(FileNotFoundError):
            workspace.publish()
    assert list(tmp_path.iterdir()) == []


def test_no_companion_is_left_without_its_result(tmp_path, write_png, monkeypatch) -> None:
    request = UpscaleRequest(write_png(300, 300), tmp_path / "o.ome.tiff", model="nearest", mpp=1.0)
    replaced = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if Path(target) == request.output:
            raise PermissionError(13, "on purpose", str(target))
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        upscale(request)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["slide.png"]


def test_roi_is_cut_to_its_bounding_box_and_only_touched_tiles_use_the_model(tmp_path, write_png) -> None:
    request = UpscaleRequest(write_png(1200, 900), tmp_path / "o.ome.zarr", model="nearest", mpp=1.0, entropy=0)
    roi = Roi.from_geojson(TRIANGLE)
    report = upscale(replace(request, roi=roi))
    assert report.plan.source == Region(300, 20, 600, 680)
    assert report.tiles.map == ("ttt", "tto", "too")
    assert (report.tiles.outside, report.tiles.tissue) == (3, 6)
    truth = np.asarray(Image.open(request.slide))[20:700, 300:900].repeat(4, axis=0).repeat(4, axis=1)
    assert (pixels_of(request.output) == truth).all()


def test_tiles_outside_a_roi_are_resampled_not_blank(tmp_path, cmu) -> None:
    roi = Roi.from_geojson({"type": "Polygon", "coordinates": [[[900, 1200], [1400, 1200], [900, 1700], [900, 1200]]]})
    request = UpscaleRequest(cmu, tmp_path / "o.ome.zarr", model="espcn-x4", entropy=0, roi=roi)
    assert upscale(request).tiles.map == ("tt", "to")
    upscale(replace(request, output=tmp_path / "b.ome.zarr", model="bicubic", roi=None, region=(900, 1200, 500, 500)))
    one, other = pixels_of(request.output), pixels_of(tmp_path / "b.ome.zarr")
    assert (one[1024:, 1024:] == other[1024:, 1024:]).all()
    assert (one[:1024] != other[:1024]).any()


def test_stripes_of_another_roi_are_not_continued(tmp_path, write_png) -> None:
    """Even if the bounding box is the same."""
    slide, token = write_png(300, 5000), CancelToken()
    first = {"type": "Polygon", "coordinates": [[[0, 0], [300, 0], [0, 5000], [0, 0]]]}
    second = {"type": "Polygon", "coordinates": [[[0, 0], [300, 0], [300, 5000], [0, 0]]]}
    request = UpscaleRequest(slide, tmp_path / "o.ome.tiff", model="bicubic", mpp=1.0, roi=Roi.from_geojson(first))

    def stop_late(progress) -> None:
        if progress.tiles_done > 18:
            token.cancel()

    with pytest.raises(Cancelled):
        upscale(request, stop_late, token)
    assert upscale(replace(request, roi=Roi.from_geojson(second))).stripes.resumed == 0


def test_a_roi_reaches_the_child_process_unchanged(tmp_path, write_png) -> None:
    request = UpscaleRequest(write_png(1200, 900), tmp_path / "o.ome.tiff", model="bicubic", mpp=1.0, entropy=0)
    with Runner() as runner:
        report = runner.run(replace(request, roi=Roi.from_geojson(TRIANGLE)), lambda _: None, CancelToken())
    assert report.tiles.map == ("ttt", "tto", "too")


def test_roi_on_a_coarser_level_includes_every_touched_pixel(tmp_path, write_pyramid, formula_pixels) -> None:
    slide = write_pyramid(tmp_path / "s.tiff", formula_pixels(Region(0, 0, 1200, 800)))
    speck = Roi.from_geojson({"type": "Polygon", "coordinates": [[[601, 401], [602, 401], [602, 402], [601, 401]]]})
    report = upscale(UpscaleRequest(slide, tmp_path / "o.ome.tiff", model="bicubic", level=2, entropy=0, roi=speck))
    assert report.plan.source == Region(150, 100, 1, 1)
    assert report.tiles.map == ("t",)


def test_roi_over_the_slides_edge_is_clipped_with_a_warning(tmp_path, write_png) -> None:
    output = tmp_path / "o.ome.zarr"
    request = UpscaleRequest(write_png(700, 500), output, model="nearest", mpp=1.0, entropy=0)
    over = {"type": "Polygon", "coordinates": [[[600, 300], [9000, 300], [9000, 9000], [600, 9000], [600, 300]]]}
    report = upscale(replace(request, roi=Roi.from_geojson(over)))
    assert report.plan.source == Region(600, 300, 100, 200)
    assert report.tiles.map == ("t",)
    assert "the region of interest reaches over the slide's edge and was cut off there" in report.warnings
    inside = {"type": "Polygon", "coordinates": [[[600, 300], [700, 300], [700, 500], [600, 500], [600, 300]]]}
    there = tmp_path / "inside.ome.zarr"
    report = upscale(replace(request, output=there, roi=Roi.from_geojson(inside)))
    assert not any("edge" in warning for warning in report.warnings)
    assert (pixels_of(output) == pixels_of(there)).all()


def test_roi_outside_the_slide_or_together_with_a_region_is_refused(tmp_path, write_png) -> None:
    request = UpscaleRequest(write_png(300, 300), tmp_path / "o.ome.tiff", model="bicubic", mpp=1.0)
    with pytest.raises(RoiError, match=r"x 300 to 900, y 20 to 700\) lies outside the slide's 300x300"):
        upscale(replace(request, roi=Roi.from_geojson(TRIANGLE)))
    with pytest.raises(ServiceError) as caught:
        replace(request, roi=Roi.from_geojson(TRIANGLE), region=(0, 0, 10, 10))
    assert caught.value.problem.code == "request.roi"
