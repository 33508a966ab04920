"""Self-evaluation: tiles measure what the whole image would, and background is left out."""

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from slidelift.models.interpolate import Interpolator
from slidelift.models.metrics.consistency import downscale_consistency
from slidelift.models.metrics.fidelity import luma, psnr_y
from slidelift.service.cli import main
from slidelift.service.errors import ServiceError
from slidelift.service.pipeline.self_evaluation import as_json, evaluate_slide
from slidelift.service.pipeline.self_report import slide_report
from slidelift.wsi.errors import PlanError
from slidelift.wsi.geometry import Region

MODELS = {name: Interpolator(name, 4) for name in ("bicubic", "nearest")}


def texture(height: int, width: int) -> np.ndarray:
    """Smooth and rough by turns, of four bits of entropy and more."""
    y, x = np.mgrid[:height, :width]
    waves = 120 + 70 * np.sin(x / 9) * np.cos(y / (5 + x / 200))
    grain = np.random.default_rng(0).normal(0, 6, (height, width))
    return np.stack([waves + grain, waves * 0.7, 240 - waves], axis=2).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Texture with glass over the right third."""
    pixels = texture(1100, 1536)
    pixels[:, 1024:] = 245
    return pixels


def test_tiles_measure_what_the_whole_image_does(write_png, picture) -> None:
    found = evaluate_slide(write_png(0, 0, pixels=picture), MODELS, 4)
    whole = Image.fromarray(picture).resize((384, 275), Image.Resampling.BICUBIC)
    for name, method in (("bicubic", Image.Resampling.BICUBIC), ("nearest", Image.Resampling.NEAREST)):
        enlarged = np.asarray(whole.resize((1536, 1100), method))
        inner = next(tile for tile in found.tiles if (tile.row, tile.column) == (0, 0))
        # inside the picture, where no mirror is: a tile sees what the whole picture's enlargement has there
        assert inner.values[name]["psnr_y"] == pytest.approx(
            psnr_y(enlarged[:512, :512], picture[:512, :512]), abs=0.05
        )
        middle = np.s_[512:1024, 512:1024]
        tile = next(tile for tile in found.tiles if (tile.row, tile.column) == (1, 1))
        assert tile.values[name]["psnr_y"] == pytest.approx(psnr_y(enlarged[middle], picture[middle]), abs=1e-9)
        error = np.square(luma(enlarged[middle]) - luma(picture[middle])).mean()
        assert tile.luma_mse[name] == pytest.approx(error)


def test_source_is_compressed_with_the_slides_tables_and_sampling(cmu) -> None:
    region = Region(900, 1200, 512, 512)
    own = evaluate_slide(cmu, MODELS, 4, region=region)
    clean = evaluate_slide(cmu, MODELS, 4, region=region, as_compressed=False)
    assert (own.source.label, own.source.sampling) == ("own tables", "RGB")
    assert own.source.tables[0][:8] == (27, 18, 17, 27, 40, 66, 85, 101)  # libjpeg's of quality 30
    assert clean.source.tables is None
    assert own.tiles[0].values["bicubic"]["psnr_y"] < clean.tiles[0].values["bicubic"]["psnr_y"]
    told = as_json(own)
    assert told["source"]["sampling"] == "RGB"
    assert told["computed_on"]["models"]["bicubic"]["precision"] == "uint8"
    assert "the slide&#x27;s own tables, RGB" in slide_report(own)


def test_consistency_of_a_tile_has_no_edge_effects(write_png, picture) -> None:
    found = evaluate_slide(write_png(0, 0, pixels=picture), MODELS, 4, region=Region(0, 0, 1024, 1024))
    whole = np.asarray(Image.fromarray(picture).resize((384, 275), Image.Resampling.BICUBIC))
    enlarged = np.asarray(Image.fromarray(whole).resize((1536, 1100), Image.Resampling.BICUBIC))
    again = np.asarray(Image.fromarray(enlarged).resize((384, 275), Image.Resampling.BICUBIC)).astype(float)
    middle = np.s_[128:256, 128:256]
    expected = 10 * math.log10(255**2 / np.square(again[middle] - whole[middle]).mean())
    tile = next(tile for tile in found.tiles if (tile.row, tile.column) == (1, 1))
    assert tile.values["bicubic"]["consistency"] == pytest.approx(expected, abs=1e-9)
    assert downscale_consistency(enlarged, whole) == pytest.approx(expected, abs=3)


def test_background_is_left_out(write_png, picture) -> None:
    found = evaluate_slide(write_png(0, 0, pixels=picture), MODELS, 4)
    assert {tile.column for tile in found.tiles} == {0, 1}
    assert np.isnan(found.grid("nearest", "psnr_y_gain")[:, 2]).all()
    assert np.isfinite(found.grid("nearest", "psnr_y_gain")[:, :2]).all()


def test_pooled_psnr_weights_tiles_by_their_pixels(write_png, picture) -> None:
    found = evaluate_slide(write_png(0, 0, pixels=picture), MODELS, 4)
    pixels = [tile.region.width * tile.region.height for tile in found.tiles]
    pooled = np.average([tile.luma_mse["nearest"] for tile in found.tiles], weights=pixels)
    assert found.pooled_psnr_y("nearest") == pytest.approx(10 * math.log10(255**2 / pooled))
    assert found.tiles[-1].region == Region(512, 1024, 512, 76)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_limited_tiles_have_the_same_measures(write_png, picture, count) -> None:
    slide = write_png(0, 0, pixels=picture)
    every = {(tile.row, tile.column): tile for tile in evaluate_slide(slide, MODELS, 4).tiles}
    some = evaluate_slide(slide, MODELS, 4, tiles=count).tiles
    assert len(some) == min(count, len(every))
    assert all(tile == every[tile.row, tile.column] for tile in some)


def test_slide_without_tissue_or_too_small_is_refused(write_png) -> None:
    with pytest.raises(ServiceError, match="no tile with tissue"):
        evaluate_slide(write_png(0, 0, pixels=np.full((600, 600, 3), 245, np.uint8)), MODELS, 4)
    with pytest.raises(PlanError, match="3x40 px are too few"):
        evaluate_slide(write_png(0, 0, pixels=texture(40, 3)), MODELS, 4)


def test_sliver_of_a_tile_is_measured_without_ssim(write_png) -> None:
    found = evaluate_slide(write_png(0, 0, pixels=texture(100, 517)), MODELS, 4)
    sliver = next(tile for tile in found.tiles if tile.column == 1)
    assert sliver.region == Region(512, 0, 4, 100)
    assert math.isnan(sliver.values["bicubic"]["ssim_y"])
    assert json.dumps(as_json(found), allow_nan=False)
    assert "<html" in slide_report(found)


class Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.alts: list[str | None] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag == "img":
            assert dict(attrs)["src"].startswith("data:image/png;base64,")
            self.alts.append(dict(attrs)["alt"])


def test_report_maps_every_model_and_can_hide_the_slide(write_png, picture) -> None:
    found = evaluate_slide(write_png(0, 0, pixels=picture), MODELS, 4)
    seen, hidden = Images(), Images()
    seen.feed(slide_report(found))
    hidden.feed(slide_report(found, crops=False))
    assert sum("map of" in alt for alt in seen.alts) == 3  # gain of one model, error of two
    assert set(seen.alts) - set(hidden.alts) == {"the slide, made small"}


def test_command_writes_table_and_json_of_a_real_slide(cmu, tmp_path, capsys) -> None:
    out = tmp_path / "slide.json"
    arguments = ["--model", "lanczos", "--tiles", "2", "--json", str(out), "--html", str(tmp_path / "slide.html")]
    assert main(["evaluate", "--slide", str(cmu), *arguments]) == 0
    found = json.loads(out.read_text("utf-8"))
    assert found["schema"] == "slidelift-self-evaluation/2"
    assert found["slide"]["mpp"] == [0.499, 0.499]
    assert len(found["tiles"]) == 2
    assert found["models"]["lanczos"]["gain"]["psnr_y"]["mean"] > 0
    assert "| cmu-1-small-region.svs | 2 | lanczos |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["text.svs", "cmu-bitflip-tiles.svs"])
def test_damaged_slide_is_a_user_error_that_names_it(data, capsys, name) -> None:
    assert main(["evaluate", "--slide", str(data / "damaged" / name), "--model", "nearest"]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "--on-bad-tile" not in said
