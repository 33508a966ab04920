"""Tiles and maps of slides, results and unfinished results have every pixel in its place."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.transform import downscale_local_mean

from slidelift.durable import write_atomically
from slidelift.service.errors import Cancelled, ServiceError
from slidelift.service.pipeline import tile_decoder
from slidelift.service.pipeline.image_source import ImageSource, TileFormat
from slidelift.service.pipeline.options import BadTilePolicy
from slidelift.service.pipeline.progress import CancelToken, Progress
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.tile_decoder import TileDecoder
from slidelift.service.pipeline.upscale import upscale
from slidelift.service.pipeline.workspace import Workspace
from slidelift.service.storage.zip_folder import archive
from slidelift.wsi.errors import TileReadError
from slidelift.wsi.roi import Roi
from slidelift.wsi.writers.segment import Segment, SegmentWriter

WIDTH, HEIGHT = 700, 2300  # nine rows of tiles: a full stripe and one of a row
STRIPE = 2048


@pytest.fixture
def decoder() -> Iterator[TileDecoder]:
    made = TileDecoder()
    yield made
    made.close()


def tile(
    decoder: TileDecoder, source: ImageSource, level: int, column: int, row: int, kind: TileFormat = TileFormat.PNG
) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(decoder.tile(source, level, column, row, kind))))


def finest(decoder: TileDecoder, source: ImageSource) -> np.ndarray:
    """All tiles of the finest level, put together."""
    width, height = decoder.size(source)
    level = (max(width, height) - 1).bit_length()
    rows = [
        np.concatenate([tile(decoder, source, level, x, y) for x in range(-(-width // 512))], axis=1)
        for y in range(-(-height // 512))
    ]
    return np.concatenate(rows, axis=0)


def request_of(slide: Path, output: Path, **given: Any) -> UpscaleRequest:
    return UpscaleRequest(slide, output, **{"model": "nearest", "mpp": 1.0, "target_mpp": 1.0, "entropy": 0, **given})


def stop_after_a_stripe(request: UpscaleRequest) -> ImageSource:
    """Leave the first stripe and the plan behind, as a running job has them."""
    cancel = CancelToken()

    def tell(progress: Progress) -> None:
        if progress.tiles_done >= 24:
            cancel.cancel()

    with pytest.raises(Cancelled):
        upscale(request, tell, cancel)
    kind = "ome-zarr" if ".zarr" in request.output.name else "ome-tiff"
    return ImageSource("stripes", request.output, "the result", kind, request.slide, (1.0, 1.0))


@pytest.mark.parametrize("zipped", [False, True])
def test_tiles_of_a_lossless_result_equal_its_pixels(
    decoder: TileDecoder, tmp_path: Path, write_png: Callable[..., Path], zipped: bool
) -> None:
    slide, output = write_png(WIDTH, HEIGHT), tmp_path / "result.ome.zarr"
    upscale(request_of(slide, output))
    if zipped:
        target = tmp_path / "result.ome.zarr.zip"
        archive(output, target, lambda: None)
        output = target
    source = ImageSource("result", output, "the result", "ome-zarr")
    truth = np.asarray(Image.open(slide))
    assert (finest(decoder, source) == truth).all()
    halved = downscale_local_mean(truth.astype(float), (2, 2, 1))
    found = tile(decoder, source, 11, 0, 1).astype(float)
    assert np.abs(found - halved[512 : 512 + found.shape[0], : found.shape[1]]).max() <= 0.5 + 1e-9


def test_tiles_of_a_tiff_equal_what_tifffile_reads(decoder: TileDecoder, tmp_path: Path, cmu: Path) -> None:
    output = tmp_path / "result.ome.tiff"
    upscale(UpscaleRequest(cmu, output, model="bicubic", target_mpp=0.499 / 2, region=(300, 400, 700, 600)))
    import tifffile

    truth = tifffile.imread(output, series=0, level=0)
    source = ImageSource("result", output, "the result", "ome-tiff")
    found = finest(decoder, source)
    assert found.shape == truth.shape == (1200, 1400, 3)
    assert np.abs(found.astype(int) - truth).max() <= 1


@pytest.mark.parametrize("name", ["result.ome.tiff", "result.ome.zarr"])
def test_unfinished_result_shows_finished_stripes_and_is_transparent_elsewhere(
    decoder: TileDecoder, tmp_path: Path, write_png: Callable[..., Path], name: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT // 32, WIDTH // 32, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    slide = write_png(WIDTH, HEIGHT, pixels=smooth)
    request = request_of(slide, tmp_path / name)
    source = stop_after_a_stripe(request)
    found = finest(decoder, source)
    assert (found[:STRIPE, :, 3] == 255).all()
    assert np.abs(found[:STRIPE, :, :3].astype(int) - smooth[:STRIPE]).mean() < (1e-9 if ".zarr" in name else 6)
    assert (found[STRIPE:] == 0).all()
    coarse = tile(decoder, source, 5, 0, 0)  # a pixel of it spans 128 rows, 2048 of 2300 are there
    assert (coarse[:16, :, 3] == 255).all()
    assert (coarse[16:] == 0).all()
    with pytest.raises(ServiceError, match="png"):
        tile(decoder, source, 5, 0, 0, TileFormat.JPEG)
    tile_map = decoder.map(source)
    assert (tile_map["complete"], tile_map["stripes"]) == (False, [True, False])
    assert tile_map["map"] == ["ttt"] * 8 + ["..."]
    assert tile_map["consistency"][8] == [None] * 3


def test_stripe_is_shown_once_it_is_finished(
    decoder: TileDecoder, tmp_path: Path, write_png: Callable[..., Path]
) -> None:
    slide = write_png(WIDTH, HEIGHT)
    request = request_of(slide, tmp_path / "result.ome.zarr")
    source = stop_after_a_stripe(request)
    assert (tile(decoder, source, 12, 0, 4) == 0).all()
    shown: list[np.ndarray] = []

    def tell(progress: Progress) -> None:
        if progress.stage == "joining" and not shown:
            shown.append(tile(decoder, source, 12, 0, 4))

    upscale(request, tell)
    assert (shown[0][..., :3] == np.asarray(Image.open(slide))[2048:2300, :512]).all()
    with pytest.raises(ServiceError) as refused:
        tile(decoder, source, 12, 0, 4)
    assert refused.value.problem.code == "job.not-finished"


def test_plan_and_stripes_are_read_once_for_all_tiles(
    decoder: TileDecoder, tmp_path: Path, write_png: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(write_png(WIDTH, HEIGHT), tmp_path / "result.ome.zarr")
    source = stop_after_a_stripe(request)
    reads: list[str] = []

    def counted(owner: Any, name: str) -> None:
        read = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: reads.append(name) or read(*given))

    for owner, name in ((Workspace, "state"), (Workspace, "segment_path"), (tile_decoder, "Segment")):
        counted(owner, name)
    (folder,) = tmp_path.glob(".slidelift-*")
    os.utime(folder, (0, 0))  # nothing has happened there for long
    shown = [tile(decoder, source, 12, column, row) for column in range(2) for row in range(5) for _ in range(3)]
    assert sorted(reads) == ["Segment", "segment_path", "segment_path", "state"]  # two stripes, of which one is there
    assert len(shown) == 30
    path = folder / "stripe-00000.segment"
    path.replace(folder / "stripe-00001.segment")  # something has: looked through again, and the plan is not read
    assert (tile(decoder, source, 12, 0, 0) == 0).all()
    assert reads.count("state") == 1
    plan = folder / "plan.json"
    write_atomically(plan, plan.read_bytes())
    tile(decoder, source, 12, 0, 0)
    assert reads.count("state") == 2


def test_vanished_stripes_are_reported_and_a_damaged_stripe_counts_as_unfinished(
    decoder: TileDecoder, tmp_path: Path, write_png: Callable[..., Path]
) -> None:
    source = stop_after_a_stripe(request_of(write_png(WIDTH, HEIGHT), tmp_path / "result.ome.zarr"))
    (folder,) = tmp_path.glob(".slidelift-*")
    path = folder / "stripe-00000.segment"
    whole, read_tile = path.read_bytes(), decoder._tile

    def late(*given: Any) -> Any:
        shutil.rmtree(folder)
        return read_tile(*given)

    path.write_bytes(whole[:-1])
    assert (tile(decoder, source, 12, 0, 0) == 0).all()
    os.utime(path, ns=(1, 1))
    path.write_bytes(whole)
    assert tile(decoder, source, 12, 0, 0).any()
    decoder._tile = late  # type: ignore[method-assign]
    with pytest.raises(ServiceError) as refused:
        tile(decoder, source, 12, 1, 0)
    assert refused.value.problem.code == "job.not-finished"


def test_restarted_job_shows_nothing_of_its_earlier_attempt(
    decoder: TileDecoder, tmp_path: Path, write_png: Callable[..., Path]
) -> None:
    request = request_of(write_png(WIDTH, HEIGHT), tmp_path / "result.ome.zarr")
    source = stop_after_a_stripe(request)
    before = tile(decoder, source, 12, 0, 0)
    put: set[tuple[int, ...]] = set()
    (path,) = tmp_path.glob(".slidelift-*/stripe-*")
    before_it = Segment(path.rename(tmp_path / "before"))
    assert (tile(decoder, source, 12, 0, 0) == 0).all()
    assert decoder.map(source)["stripes"] == [False, False]
    with SegmentWriter(path) as again:  # the same tiles in another order, as they happen to be finished
        for level, row, column in reversed(before_it.index[["level", "row", "column"]].tolist()):
            if (level, row, column) not in put:
                again.put(level, row, column, before_it.tile(level, row, column))
            put.add((level, row, column))
        again.finish(before_it.remainder(), before_it.report)
    assert (tile(decoder, source, 12, 0, 0) == before).all()


def test_map_of_a_result_has_position_tiles_and_consistency(decoder: TileDecoder, tmp_path: Path, cmu: Path) -> None:
    output = tmp_path / "result.ome.tiff"
    report = upscale(UpscaleRequest(cmu, output, model="bicubic", region=(512, 256, 700, 600)))
    path = tmp_path / "report.json"
    path.write_bytes(report.as_bytes())
    source = ImageSource("result", output, "the result", "ome-tiff", report=path)
    tile_map = decoder.map(source)
    assert tile_map["complete"]
    assert tile_map["place"] == [512, 256, 700, 600]
    assert (tile_map["width"], tile_map["height"], tile_map["tile"], tile_map["scale"]) == (2800, 2400, 1024, 4)
    assert tile_map["mpp"] == pytest.approx([0.499 / 4] * 2)
    assert tuple(tile_map["map"]) == report.tiles.map
    measured = [one for row in tile_map["consistency"] for one in row if one is not None]
    assert len(measured) == report.tiles.tissue == report.tiles.consistency.measured
    assert max(measured) == report.tiles.consistency.worst.rmse
    assert tile_map["bad"] == []


def test_map_lists_bad_tiles_with_their_cause(decoder: TileDecoder, tmp_path: Path, data: Path) -> None:
    output, slide = tmp_path / "result.ome.tiff", data / "damaged" / "cmu-bitflip-tiles.svs"
    request = UpscaleRequest(
        slide, output, model="nearest", target_mpp=0.499, mpp=0.499, on_bad_tile=BadTilePolicy.MARK
    )
    path = tmp_path / "report.json"
    path.write_bytes(upscale(request).as_bytes())
    source = ImageSource("result", output, "the result", "ome-tiff", report=path)
    tile_map = decoder.map(source)
    assert tile_map["bad"]
    assert all(tile_map["map"][bad["row"]][bad["column"]] == "b" for bad in tile_map["bad"])
    assert all(bad["cause"] and bad["remedy"] for bad in tile_map["bad"])


def test_damaged_tiles_raise_and_the_others_are_decoded(decoder: TileDecoder, data: Path) -> None:
    source = ImageSource("slide", data / "damaged" / "cmu-bitflip-tiles.svs", "the slide")
    shown, failed = 0, 0
    for column in range(5):
        for row in range(6):
            try:
                shown += tile(decoder, source, 12, column, row).size > 0
            except TileReadError:
                failed += 1
    assert shown > 0
    assert failed > 0


def test_idle_slide_is_closed(
    decoder: TileDecoder, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = (data / "slides" / "OS-1-detail.ome.tif").resolve()
    source = ImageSource("slide", slide, "the slide")

    def is_open() -> bool:
        links = Path("/proc/self/fd").iterdir()
        return any(one.readlink() == slide for one in links if one.exists())

    tile(decoder, source, 11, 0, 0)
    assert is_open()
    monkeypatch.setattr(tile_decoder, "_IDLE_SECONDS", -1.0)
    with pytest.raises(ServiceError):
        decoder.map(ImageSource("stripes", tmp_path / "none.ome.tiff", "the result"))
    assert not is_open()


CORNER = {"type": "Polygon", "coordinates": [[[0, 0], [WIDTH, 0], [0, HEIGHT], [0, 0]]]}


@pytest.mark.parametrize("roi", [None, Roi.from_geojson(CORNER)], ids=["whole", "roi"])
@pytest.mark.parametrize("entropy", [0, None])
def test_map_of_a_running_job_equals_the_final_map(
    decoder: TileDecoder, tmp_path: Path, write_png: Callable[..., Path], roi: Roi | None, entropy: float | None
) -> None:
    """Of every finished row, with all letters: tissue, rejected, glass and outside."""
    pixels = np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:1100, :300] = 244  # glass
    pixels[1100:1600, :300] = np.random.default_rng(4).integers(230, 237, (500, 300, 1), dtype=np.uint8)
    slide, output = write_png(WIDTH, HEIGHT, pixels=pixels), tmp_path / "result.ome.zarr"
    request = request_of(slide, output, entropy=entropy, roi=roi)
    source = stop_after_a_stripe(request)
    map_after_a_stripe = decoder.map(source)
    map_at_the_join: dict[str, Any] = {}

    def read_map_at_the_join(progress: Progress) -> None:
        if progress.stage == "joining" and not map_at_the_join:
            map_at_the_join.update(decoder.map(source))

    report = upscale(request, read_map_at_the_join)
    assert tuple(map_at_the_join["map"]) == report.tiles.map
    finished = [row for row in map_after_a_stripe["map"] if "." not in row]
    assert 0 < len(finished) < len(report.tiles.map)
    assert tuple(finished) == report.tiles.map[: len(finished)]
    letters = set("".join(report.tiles.map))
    assert letters == {"t"} | ({"o"} if roi else set()) | (set() if entropy == 0 else {"g", "r"})
    path = tmp_path / "report.json"
    path.write_bytes(report.as_bytes())
    final = decoder.map(ImageSource("result", output, "the result", "ome-zarr", report=path))
    assert tuple(final["map"]) == report.tiles.map


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"tiles": 4}', b"[" * 9999])
def test_damaged_report_is_a_clear_error(decoder: TileDecoder, tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text)
    with pytest.raises(ServiceError, match="report is damaged") as refused:
        decoder.map(ImageSource("result", tmp_path / "result.ome.tiff", "the result", "ome-tiff", report=path))
    assert refused.value.problem.code == "job.no-result"
