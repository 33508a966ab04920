"""One slide through everything: each pixel once, in its place, the same bytes however it was made."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import ome_types
import pytest
import tifffile
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slidelift.durable import sync_tree
from slidelift.models.networks.srvgg_compact import SRVGGNetCompact
from slidelift.models.upscaler import load_upscaler
from slidelift.service.errors import Cancelled, ServiceError
from slidelift.service.pipeline.options import BadTilePolicy
from slidelift.service.pipeline.progress import CancelToken, Progress, Stage
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.upscale import upscale
from slidelift.wsi.errors import PixelSizeMissingError, PlanError, TileReadError, VerificationError
from slidelift.wsi.geometry import Region
from slidelift.wsi.icc import sanitise_profile
from slidelift.wsi.ome_xml import ImageMetadata, interleaved_xml
from slidelift.wsi.result_hash import result_hash

TWICE = {"mpp": 1.0, "target_mpp": 0.5}
"""For runs of several stripes, which are as many tiles at any scale."""


def pixels_of(output: Path, level: int = 0) -> np.ndarray:
    group = zarr.open_group(str(output), mode="r", zarr_format=2)
    return np.moveaxis(np.asarray(group[str(level)][:]), 0, -1)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".slidelift")]


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A small compact network with random weights, little enough of them to keep plain colours within two levels."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    network = SRVGGNetCompact(features=8, convolutions=3)
    with torch.no_grad():
        network.body[-1].weight *= 0.2
    torch.save({"params": network.state_dict()}, path)
    return path


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 900), st.one_of(st.just(1), st.integers(1, 2500)), st.sampled_from([1, 2, 3, 4]))
def test_an_identity_gives_back_the_slides_own_pixels(tmp_path, write_png, width, height, scale) -> None:
    """Nearest neighbour, so that each source pixel stands alone; odd sizes, one row, below one tile."""
    slide, output = write_png(width, height), tmp_path / "out.ome.zarr"
    upscale(UpscaleRequest(slide, output, model="nearest", mpp=1.0, target_mpp=1.0 / scale, entropy=0))
    truth = np.asarray(Image.open(slide))
    assert (pixels_of(output) == truth.repeat(scale, axis=0).repeat(scale, axis=1)).all()


def test_rejected_background_of_an_identity_is_the_slides_own_too(tmp_path, write_png) -> None:
    glass = np.random.default_rng(0).integers(240, 246, (600, 800, 3), dtype=np.uint8)
    slide, output = write_png(800, 600, pixels=glass), tmp_path / "out.ome.zarr"
    report = upscale(UpscaleRequest(slide, output, model="nearest", mpp=1.0, target_mpp=1.0))
    assert report.tiles.rejected + report.tiles.glass == report.tiles.total
    assert report.summary == "No tissue was found: the model enhanced 0 of 12 tiles."
    assert (pixels_of(output) == glass).all()


@pytest.mark.parametrize("size", [(700, 530), (300, 90)])
def test_tiled_equals_untiled_for_the_compact_network(tmp_path, write_png, weights, size) -> None:
    slide, output = write_png(*size), tmp_path / "out.ome.zarr"
    upscale(UpscaleRequest(slide, output, model=str(weights), mpp=1.0, entropy=0))
    network = load_upscaler(str(weights))
    halo = network.halo
    whole = np.pad(np.asarray(Image.open(slide)), ((halo, halo), (halo, halo), (0, 0)), "symmetric")
    untiled = network(whole[None])[0][4 * halo : -4 * halo, 4 * halo : -4 * halo]
    assert np.abs(pixels_of(output).astype(int) - untiled).max() == 0


def test_every_level_is_the_halved_one_below(tmp_path, write_png) -> None:
    slide, output = write_png(701, 3011), tmp_path / "out.ome.zarr"  # two stripes
    report = upscale(UpscaleRequest(slide, output, model="bicubic", mpp=1.0))
    below = pixels_of(output)
    for level in range(1, len(report.output.levels)):
        even = below[: below.shape[0] // 2 * 2, : below.shape[1] // 2 * 2].astype(np.uint16)
        below = ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4).astype(np.uint8)
        assert (pixels_of(output, level) == below).all()


def test_a_region_is_cut_from_the_whole(tmp_path, write_png) -> None:
    slide = write_png(900, 800)
    upscale(UpscaleRequest(slide, tmp_path / "whole.ome.zarr", model="bicubic", mpp=1.0, entropy=0))
    upscale(
        UpscaleRequest(
            slide, tmp_path / "part.ome.zarr", model="bicubic", mpp=1.0, entropy=0, region=(333, 222, 301, 277)
        )
    )
    whole, part = pixels_of(tmp_path / "whole.ome.zarr"), pixels_of(tmp_path / "part.ome.zarr")
    assert (part == whole[4 * 222 : 4 * 499, 4 * 333 : 4 * 634]).all()


def test_target_mpp_takes_the_level_that_gives_it(tmp_path, write_pyramid, formula_pixels, weights) -> None:
    slide = write_pyramid(tmp_path / "s.tiff", formula_pixels(Region(0, 0, 1200, 800)), mpp=0.25)
    report = upscale(UpscaleRequest(slide, tmp_path / "o.ome.tiff", model=str(weights), target_mpp=0.25))
    assert (report.plan.level, report.plan.scale) == (2, 4)
    assert report.output.mpp == pytest.approx([0.25, 0.25], rel=1e-3)


def test_target_mpp_that_the_slide_has_gives_its_own_pixels(tmp_path, write_pyramid, formula_pixels) -> None:
    """0.499 µm per pixel for 0.5: level 0 as it is, not a blurred level 2 made four times larger."""
    pixels = formula_pixels(Region(0, 0, 1200, 800))
    slide = write_pyramid(tmp_path / "s.tiff", pixels, mpp=0.499)
    report = upscale(UpscaleRequest(slide, tmp_path / "o.ome.zarr", model="nearest", target_mpp=0.5, entropy=0))
    assert (report.plan.level, report.plan.scale) == (0, 1)
    assert (pixels_of(tmp_path / "o.ome.zarr") == pixels).all()


def test_a_target_that_a_finer_level_has_by_itself_is_told_to_gain_little(
    tmp_path, write_pyramid, formula_pixels, weights
) -> None:
    slide = write_pyramid(tmp_path / "s.tiff", formula_pixels(Region(0, 0, 1200, 800)), mpp=0.25)
    request = UpscaleRequest(slide, tmp_path / "o.ome.tiff", model=str(weights), target_mpp=0.25)
    assert any("little to gain" in warning for warning in upscale(request).warnings)
    assert not any("little to gain" in warning for warning in upscale(replace(request, target_mpp=0.125)).warnings)


def test_pixels_that_are_not_square_keep_their_ratio_or_it_is_told(tmp_path, formula_pixels) -> None:
    slide, output = tmp_path / "s.tiff", tmp_path / "o.ome.tiff"
    pixels = formula_pixels(Region(0, 0, 600, 400))
    tifffile.imwrite(slide, pixels, tile=(256, 256), resolution=(1e4 / 0.5, 1e4 / 0.25), resolutionunit="CENTIMETER")
    request = UpscaleRequest(slide, output, model="nearest")

    def told(asked: UpscaleRequest) -> tuple[list[float], str]:
        report = upscale(asked)
        return report.output.mpp, " ".join(report.warnings)

    mpp, words = told(request)
    assert (mpp, "square" in words) == (pytest.approx([0.125, 0.0625], rel=1e-6), False)
    mpp, words = told(replace(request, target_mpp=0.25))
    assert mpp == pytest.approx([0.25, 0.125], rel=1e-6)
    assert "along x they have the requested 0.25 µm, along y 0.125" in words
    mpp, words = told(replace(request, mpp=0.5))
    assert mpp == pytest.approx([0.125, 0.125], rel=1e-6)
    assert "not square, 0.5 x 0.25 µm; 0.5 was given" in words


def test_constant_tiles_share_one_blank_of_their_own_colour(tmp_path, write_png) -> None:
    picture = np.full((1024, 1024, 3), (231, 229, 240), np.uint8)
    picture[:256, :256] = np.random.default_rng(0).integers(0, 255, (256, 256, 3))
    output = tmp_path / "o.ome.tiff"
    upscale(UpscaleRequest(write_png(1024, 1024, pixels=picture), output, model="bicubic", mpp=1.0))
    with tifffile.TiffFile(output) as tiff:
        page = tiff.pages.first
        assert len(set(page.dataoffsets)) < len(page.dataoffsets) / 2
        corner = page.asarray()[-1, -1].astype(int)
    assert np.abs(corner - (231, 229, 240)).max() <= 2


def test_an_icc_profile_is_carried_over_without_its_words(tmp_path, data) -> None:
    boxes = data / "slides" / "boxes.tiff"
    for name in ("o.ome.tiff", "p.ome.zarr"):
        upscale(UpscaleRequest(boxes, tmp_path / name, model="bicubic", mpp=1.0))
    with tifffile.TiffFile(boxes) as source, tifffile.TiffFile(tmp_path / "o.ome.tiff") as result:
        profile = sanitise_profile(bytes(source.pages.first.tags[34675].value))
        assert profile is not None
        assert bytes(result.pages.first.tags[34675].value) == profile
    assert (tmp_path / "p.ome.zarr" / "OME" / "profile.icc").read_bytes() == profile


def test_the_same_request_gives_the_same_bytes_from_anywhere(tmp_path, write_png, weights, monkeypatch) -> None:
    slide = write_png(600, 2300)
    (tmp_path / "elsewhere").mkdir()
    renamed = tmp_path / "elsewhere" / "other name.png"
    renamed.write_bytes(slide.read_bytes())
    first, second = tmp_path / "a.ome.tiff", tmp_path / "elsewhere" / "b.ome.tiff"
    upscale(UpscaleRequest(slide, first, model=str(weights), mpp=1.0))
    monkeypatch.chdir(tmp_path / "elsewhere")
    time.sleep(1.1)
    upscale(UpscaleRequest(renamed, second, model=str(weights), mpp=1.0))
    assert first.read_bytes() == second.read_bytes()


def test_no_name_path_or_time_of_the_source_is_in_the_image(tmp_path, write_png) -> None:
    slide = write_png(300, 300, name="patient Meier 1957.png")
    output = tmp_path / "o.ome.tiff"
    report = upscale(UpscaleRequest(slide, output, model="bicubic", mpp=1.0))
    for word in (b"Meier", str(tmp_path).encode(), time.strftime("%Y-%m-%d").encode()):
        assert word not in output.read_bytes()
    assert "Meier" not in json.dumps(report.as_dict())


@pytest.mark.parametrize("suffix", [".ome.tiff", ".ome.zarr"])
def test_a_cancelled_run_continues_and_its_file_is_byte_identical(tmp_path, write_png, suffix) -> None:
    slide = write_png(500, 5000)  # three stripes
    request = UpscaleRequest(slide, tmp_path / f"whole{suffix}", model="bicubic", **TWICE)
    upscale(request)
    token, seen = CancelToken(), []

    def stop_late(progress) -> None:
        seen.append(progress)
        if progress.tiles_done > 20:
            token.cancel()

    again = replace(request, output=tmp_path / f"again{suffix}")
    with pytest.raises(Cancelled):
        upscale(again, stop_late, token)
    assert not again.output.exists()
    report = upscale(again, seen.append)
    assert report.stripes.resumed == 1
    assert any(progress.resumed_tiles == 16 for progress in seen)
    assert leftovers(tmp_path) == []
    files = [path.relative_to(request.output) for path in request.output.rglob("*") if path.is_file()] or [Path()]
    assert all((request.output / name).read_bytes() == (again.output / name).read_bytes() for name in files)


@pytest.mark.parametrize("suffix", [".ome.tiff", ".ome.zarr"])
def test_the_bytes_that_are_told_are_those_on_disk(tmp_path, write_png, suffix) -> None:
    """Of the stripes that are finished, an earlier run's too; then of the joined result beside them."""
    request = UpscaleRequest(write_png(700, 3011), tmp_path / f"out{suffix}", model="bicubic", **TWICE)
    token, told, found = CancelToken(), [], []

    def look(progress: Progress) -> None:
        told.append((progress.stage, progress.bytes_written))
        (folder,) = tmp_path.glob(".slidelift-*") if progress.stage is not Stage.OPENING else (tmp_path,)
        found.append(sum(path.stat().st_size for path in folder.glob("stripe-*.segment")))

    def cancelling(progress: Progress) -> None:
        look(progress)
        if progress.bytes_written:
            token.cancel()

    with pytest.raises(Cancelled):
        upscale(request, cancelling, token)
    assert told[-1] == (Stage.UPSCALING, found[-1])
    begun = found[-1]
    told.clear(), found.clear()
    upscale(request, look)
    stripes = {stage: written for stage, written in told if stage is not Stage.VERIFYING}
    assert stripes[Stage.OPENING] is stripes[Stage.PLANNING] is None
    assert (Stage.UPSCALING, begun) in told
    assert stripes[Stage.JOINING] == found[-1] > begun > 0
    result = [path for path in (request.output, *request.output.rglob("*")) if path.is_file()]
    joined = told[-1][1] - found[-1]
    assert told[-1][0] is Stage.VERIFYING
    assert joined == pytest.approx(sum(path.stat().st_size for path in result), rel=0.05)


@pytest.mark.parametrize("suffix", [".ome.tiff", ".ome.zarr"])
def test_hashing_a_result_tells_progress_and_can_be_cancelled(tmp_path, write_png, monkeypatch, suffix) -> None:
    """A hundred gigabytes on a slow disk take longer than a job may be silent."""
    token, told, hashed = CancelToken(), list[Progress](), list[int]()

    def hash_twice(*arguments) -> str:
        before = len(told)
        result_hash(*arguments)
        hashed.append(len(told) - before)
        token.cancel()
        return result_hash(*arguments)

    monkeypatch.setattr("slidelift.service.pipeline.report_builder.result_hash", hash_twice)
    with pytest.raises(Cancelled):
        upscale(
            UpscaleRequest(write_png(300, 200), tmp_path / f"out{suffix}", model="bicubic", mpp=1.0), told.append, token
        )
    assert hashed[0] > 0
    assert told[-1].stage is Stage.VERIFYING


def test_flushing_a_zarr_tells_progress_and_can_be_cancelled(tmp_path, write_png, monkeypatch) -> None:
    token, told, flushed = CancelToken(), list[Progress](), list[int]()

    def flush_twice(folder: Path, *arguments) -> None:
        before = len(told)
        sync_tree(folder, *arguments)
        flushed.append(len(told) - before)
        token.cancel()
        sync_tree(folder, *arguments)

    monkeypatch.setattr("slidelift.wsi.writers.ome_zarr.sync_tree", flush_twice)
    with pytest.raises(Cancelled):
        upscale(
            UpscaleRequest(write_png(300, 200), tmp_path / "out.ome.zarr", model="bicubic", mpp=1.0), told.append, token
        )
    assert flushed[0] > 3
    assert told[-1].stage is Stage.JOINING


def test_killed_and_continued_is_byte_identical(tmp_path, write_png) -> None:
    slide = write_png(700, 6000)
    whole, again = tmp_path / "whole.ome.tiff", tmp_path / "again.ome.tiff"
    upscale(UpscaleRequest(slide, whole, model="lanczos", mpp=1.0))
    code = (
        "import sys; from pathlib import Path; from slidelift.service.pipeline.upscale import upscale; "
        "from slidelift.service.pipeline.request import UpscaleRequest; "
        "upscale(UpscaleRequest(Path(sys.argv[1]), Path(sys.argv[2]), model='lanczos', mpp=1.0), "
        "lambda p: print(p.tiles_done, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, slide, again], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) > 30:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    assert not again.exists()
    assert len(leftovers(tmp_path)) == 1
    assert upscale(UpscaleRequest(slide, again, model="lanczos", mpp=1.0)).stripes.resumed >= 1
    assert again.read_bytes() == whole.read_bytes()


def test_another_request_does_not_continue_the_old_one(tmp_path, write_png) -> None:
    slide, output = write_png(300, 5000), tmp_path / "o.ome.tiff"
    token = CancelToken()

    def stop_late(progress) -> None:
        if progress.tiles_done > 18:
            token.cancel()

    with pytest.raises(Cancelled):
        upscale(UpscaleRequest(slide, output, model="bicubic", **TWICE), stop_late, token)
    report = upscale(UpscaleRequest(slide, output, model="bicubic", **TWICE, quality=50))
    assert report.stripes.resumed == 0


@pytest.mark.parametrize("change", ["model", "slide", "region"])
def test_what_another_model_slide_or_region_began_is_not_continued(tmp_path, write_png, weights, change) -> None:
    output, token = tmp_path / "o.ome.zarr", CancelToken()
    request = UpscaleRequest(write_png(200, 5000), output, model="bicubic", **TWICE)

    def stop_late(progress) -> None:
        if progress.tiles_done > 9:
            token.cancel()

    with pytest.raises(Cancelled):
        upscale(request, stop_late, token)
    other = {
        "model": replace(request, model=str(weights), target_mpp=None, region=(0, 0, 200, 300)),
        "slide": replace(request, slide=write_png(200, 5000, "b.png", np.full((5000, 200, 3), 90, np.uint8))),
        "region": replace(request, region=(0, 100, 200, 4900)),
    }[change]
    assert upscale(other).stripes.resumed == 0
    upscale(replace(other, output=tmp_path / "clean.ome.zarr"))
    assert (pixels_of(output) == pixels_of(tmp_path / "clean.ome.zarr")).all()


def test_an_altered_stripe_alone_is_made_again(tmp_path, write_png) -> None:
    output, token = tmp_path / "o.ome.tiff", CancelToken()
    request = UpscaleRequest(write_png(300, 5000), output, model="bicubic", **TWICE)

    def stop_at_the_end(progress) -> None:
        if progress.stage is Stage.JOINING:
            token.cancel()

    with pytest.raises(Cancelled):
        upscale(request, stop_at_the_end, token)
    first = min(tmp_path.glob(".slidelift-*/stripe-*.segment"))
    first.write_bytes(b"\x00" + first.read_bytes()[1:])
    with pytest.raises(VerificationError, match="only this stripe"):
        upscale(request)
    assert upscale(request).stripes.resumed == 2


def test_thin_regions_pass_their_verification(tmp_path, write_png) -> None:
    picture = np.full((300, 300, 3), 240, np.uint8)
    picture[100], picture[:, 50] = 20, 20
    slide = write_png(300, 300, pixels=picture)
    for region in ((0, 100, 300, 1), (50, 0, 1, 300), (50, 100, 1, 1)):
        for quality in (1, 90):
            upscale(
                UpscaleRequest(slide, tmp_path / "o.ome.tiff", model="bicubic", mpp=1.0, region=region, quality=quality)
            )


def test_a_request_out_of_range_is_refused_before_any_work(tmp_path) -> None:
    for wrong in ({"mpp": 0.0}, {"mpp": 1e-6}, {"target_mpp": float("nan")}, {"quality": 0}, {"entropy": 9.0}):
        with pytest.raises(ServiceError):
            UpscaleRequest(tmp_path / "a.svs", tmp_path / "o.ome.tiff", **wrong)


def test_a_workspace_has_one_owner_at_a_time(tmp_path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from slidelift.service.errors import ServiceError\n"
        "from slidelift.service.pipeline.workspace import Workspace\n"
        "end = time.time() + 3; owner = Path(sys.argv[1]).parent / 'owner'\n"
        "while time.time() < end:\n"
        "    try:\n"
        "        with Workspace(Path(sys.argv[1])):\n"
        "            os.close(os.open(owner, os.O_CREAT | os.O_EXCL)); owner.unlink()\n"
        "    except ServiceError: pass\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "o.ome.tiff")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == ["", "", ""]


def test_a_mistyped_call_does_not_cost_an_interrupted_runs_stripes(tmp_path, write_png) -> None:
    slide, output = write_png(300, 5000), tmp_path / "o.ome.tiff"
    request, token = UpscaleRequest(slide, output, model="bicubic", **TWICE), CancelToken()

    def stop_late(progress) -> None:
        if progress.tiles_done > 18:
            token.cancel()

    with pytest.raises(Cancelled):
        upscale(request, stop_late, token)
    with pytest.raises(PixelSizeMissingError):
        upscale(replace(request, mpp=None))
    with pytest.raises(PlanError):
        upscale(replace(request, level=7))
    assert upscale(request).stripes.resumed == 1


def test_a_damaged_segment_is_made_again(tmp_path, write_png) -> None:
    slide, output = write_png(300, 5000), tmp_path / "o.ome.tiff"
    request, token = UpscaleRequest(slide, output, model="bicubic", **TWICE), CancelToken()
    upscale(replace(request, output=tmp_path / "whole.ome.tiff"))

    def stop_late(progress) -> None:
        if progress.tiles_done > 18:
            token.cancel()

    with pytest.raises(Cancelled):
        upscale(request, stop_late, token)
    (segment,) = tmp_path.glob(".slidelift-*/*.segment")
    segment.write_bytes(segment.read_bytes()[:-7])
    assert upscale(request).stripes.resumed == 0
    assert output.read_bytes() == (tmp_path / "whole.ome.tiff").read_bytes()


def test_two_processes_do_not_make_the_same_output_at_once(tmp_path, write_png) -> None:
    slide, output = write_png(300, 300), tmp_path / "o.ome.tiff"
    request = UpscaleRequest(slide, output, model="bicubic", mpp=1.0)
    refused = []

    def try_again(progress) -> None:
        if progress.stage is Stage.PLANNING:
            with pytest.raises(ServiceError) as caught:
                upscale(request)
            refused.append(caught.value.problem.code)

    upscale(request, try_again)
    assert refused == ["request.in-progress"]
    assert output.exists()


def test_a_bad_tile_fails_the_job_and_leaves_nothing(tmp_path, data) -> None:
    slide = data / "damaged" / "cmu-bitflip-tiles.svs"
    with pytest.raises(TileReadError, match="cmu-bitflip-tiles"):
        upscale(UpscaleRequest(slide, tmp_path / "o.ome.tiff", model="bicubic"))
    assert list(tmp_path.iterdir()) == []


def test_marked_bad_tiles_are_listed_and_the_rest_is_right(tmp_path, data, cmu) -> None:
    slide = data / "damaged" / "cmu-bitflip-tiles.svs"
    whole = UpscaleRequest(cmu, tmp_path / "whole.ome.zarr", model="bicubic", entropy=0, region=(768, 1024, 512, 512))
    upscale(whole)
    report = upscale(replace(whole, slide=slide, output=tmp_path / "o.ome.zarr", on_bad_tile=BadTilePolicy.MARK))
    differs = (pixels_of(tmp_path / "o.ome.zarr") != pixels_of(tmp_path / "whole.ome.zarr")).any(axis=2)
    for bad in report.tiles.bad:
        x, y, width, height = (4 * value for value in bad.affected)
        x, y = x - 4 * 768, y - 4 * 1024
        differs[max(0, y - 8) : y + height + 8, max(0, x - 8) : x + width + 8] = False
    assert len(report.tiles.bad) == 4
    assert not differs.any()


def test_a_network_that_answers_no_number_fails_with_the_tiles_place(tmp_path, write_png, weights, monkeypatch) -> None:
    network = load_upscaler(str(weights))
    from slidelift.models.errors import NonFiniteOutputError

    class Broken:
        def __init__(self) -> None:
            self.__dict__.update(
                {
                    name: getattr(network, name)
                    for name in (
                        "name",
                        "scale",
                        "halo",
                        "exact",
                        "fade",
                        "precision",
                        "device",
                        "batch",
                        "fingerprint",
                        "incidents",
                    )
                }
            )

        def __call__(self, batch):
            if (batch[0, network.halo, network.halo] == at).all():
                raise NonFiniteOutputError("NaN", 0)
            return network(batch)

    slide = write_png(600, 300)
    at = np.asarray(Image.open(slide))[0, 256]
    monkeypatch.setattr("slidelift.models.upscaler.OpenedModel.upscaler", lambda *_, **__: Broken())
    request = UpscaleRequest(slide, tmp_path / "o.ome.tiff", model=str(weights), mpp=1.0, entropy=0)
    with pytest.raises(NonFiniteOutputError, match="x 256, y 0"):
        upscale(request)
    report = upscale(replace(request, on_bad_tile=BadTilePolicy.MARK))
    assert [(bad.row, bad.column) for bad in report.tiles.bad] == [(0, 1)]


def test_a_source_outside_the_models_range_is_warned_of(tmp_path, cmu) -> None:
    request = UpscaleRequest(cmu, tmp_path / "o.ome.tiff", model="compact-x4", region=(900, 1200, 256, 256))
    assert any("0.499" in warning for warning in upscale(request).warnings)


def test_without_a_model_the_recommended_one_is_taken_and_the_report_says_why(tmp_path, cmu) -> None:
    request = UpscaleRequest(cmu, tmp_path / "o.ome.tiff", region=(900, 1200, 256, 256))
    report = upscale(request)
    assert (report.model.name, report.plan.level, report.plan.scale) == ("compact-x2", 0, 2)
    assert report.model.chosen_because.startswith("compact-x2 makes 0.249 µm per pixel")
    assert report.model.chosen_because in (tmp_path / "o.report.html").read_text("utf-8")
    named = upscale(replace(request, model="compact-x2", output=tmp_path / "named.ome.tiff"))
    assert named.model.chosen_because is None
    assert named.output.sha256 == report.output.sha256


def test_a_stored_plan_keeps_what_was_recommended(tmp_path, cmu) -> None:
    """A run that goes on tells the reason that it began with."""
    request = UpscaleRequest(cmu, tmp_path / "o.ome.tiff", region=(0, 0, 300, 2500))
    token = CancelToken()
    with pytest.raises(Cancelled):
        upscale(request, lambda progress: token.cancel() if progress.tiles_done else None, token)
    [state] = tmp_path.glob(".slidelift-*/plan.json")
    stored = json.loads(state.read_text("utf-8"))
    assert stored["chosen_because"].startswith("compact-x2")
    state.write_text(json.dumps(stored | {"chosen_because": "as it was said then"}))
    assert upscale(request).model.chosen_because == "as it was said then"


def test_a_slide_that_no_model_would_make_better_is_refused_with_the_reason(tmp_path, cmu) -> None:
    with pytest.raises(ServiceError, match="little to gain") as caught:
        upscale(UpscaleRequest(cmu, tmp_path / "o.ome.tiff", mpp=0.25))
    assert caught.value.problem.code == "request.little-to-gain"
    assert list(tmp_path.iterdir()) == []


def test_fluorescence_is_refused_by_networks_and_taken_by_interpolation(tmp_path, data) -> None:
    slide = data / "slides" / "dapi (387).ndpi"
    with pytest.raises(ServiceError) as caught:
        upscale(UpscaleRequest(slide, tmp_path / "o.ome.tiff", model="compact-x4"))
    assert caught.value.problem.code == "slide.not-brightfield"
    with pytest.raises(ServiceError, match="fluorescence"):
        upscale(UpscaleRequest(slide, tmp_path / "o.ome.tiff"))
    upscale(UpscaleRequest(slide, tmp_path / "o.ome.tiff", model="bicubic", region=(0, 0, 500, 500)))


def test_an_unknown_pixel_size_is_never_guessed(tmp_path, write_png) -> None:
    with pytest.raises(PixelSizeMissingError):
        upscale(UpscaleRequest(write_png(300, 300), tmp_path / "o.ome.tiff", model="bicubic"))


def test_what_the_model_cannot_reach_is_refused(tmp_path, cmu) -> None:
    with pytest.raises(PlanError, match=r"0\.1247"):
        upscale(UpscaleRequest(cmu, tmp_path / "o.ome.tiff", model="compact-x4", target_mpp=0.3))


def test_the_slide_itself_is_never_overwritten(write_pyramid, tmp_path, formula_pixels) -> None:
    slide = write_pyramid(tmp_path / "s.ome.tiff", formula_pixels(Region(0, 0, 300, 300)), levels=1)
    before = slide.read_bytes()
    with pytest.raises(ServiceError):
        upscale(UpscaleRequest(slide, slide, model="bicubic"))
    assert slide.read_bytes() == before


def test_ome_types_reads_the_metadata_of_both_formats(tmp_path, write_png) -> None:
    slide = write_png(300, 200)
    for name in ("o.ome.tiff", "p.ome.zarr"):
        upscale(UpscaleRequest(slide, tmp_path / name, model="nearest", mpp=1.0))
    planar = (tmp_path / "p.ome.zarr" / "OME" / "METADATA.ome.xml").read_text("utf-8")
    for told in (
        ome_types.from_tiff(tmp_path / "o.ome.tiff", validate=True),
        ome_types.from_xml(planar, validate=True),
    ):
        pixels = told.images[0].pixels
        assert (pixels.size_x, pixels.size_y, pixels.physical_size_x, pixels.physical_size_y) == (1200, 800, 0.25, 0.25)


@pytest.mark.parametrize(
    ("written", "instead", "says"),
    [
        ('SizeX="1200"', 'SizeX="1201"', "wrong image size"),
        ('PhysicalSizeY="0.25"', 'PhysicalSizeY="0.2501"', "wrong pixel size"),
        ('PhysicalSizeY="0.25"', "", "wrong pixel size"),
        ('DimensionOrder="XYCZT"', 'DimensionOrder="XYC"', "violates the schema"),
        ("</Image>", "", "not well-formed"),
        ("nearest", "n&#101;arest", "character entity"),
    ],
)
def test_a_result_whose_metadata_is_wrong_is_no_result(
    tmp_path, write_png, monkeypatch, written, instead, says
) -> None:
    def wrong(facts: ImageMetadata) -> str:
        text = interleaved_xml(facts).replace(written, instead)
        assert text != interleaved_xml(facts)
        return text

    monkeypatch.setattr("slidelift.wsi.writers.ome_tiff.interleaved_xml", wrong)
    with pytest.raises(VerificationError, match=says):
        upscale(UpscaleRequest(write_png(300, 200), tmp_path / "o.ome.tiff", model="nearest", mpp=1.0))
    assert list(tmp_path.glob("o.ome.*")) == []


def test_an_older_result_stays_until_the_new_one_is_verified(tmp_path, write_png, monkeypatch) -> None:
    slide, output = write_png(300, 300), tmp_path / "o.ome.tiff"
    upscale(UpscaleRequest(slide, output, model="nearest", mpp=1.0))
    before = output.read_bytes()
    broken = imagecodecs.jpeg8_encode(np.zeros((512, 512, 3), np.uint8), subsampling="420")
    monkeypatch.setattr("slidelift.wsi.writers.ome_tiff.imagecodecs.jpeg8_encode", lambda *_, **__: broken)
    with pytest.raises(VerificationError):
        upscale(UpscaleRequest(slide, output, model="bicubic", mpp=1.0))
    assert output.read_bytes() == before
    assert leftovers(tmp_path) == []
