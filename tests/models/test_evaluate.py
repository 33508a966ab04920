"""Evaluation: measuring convention, statistics, reports, and the default model's gain."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from slidelift.models.errors import ImagesError
from slidelift.models.evaluate import (
    CLEAN,
    ModelScores,
    Summary,
    as_json,
    card_metrics,
    evaluate,
    reference,
    table,
    upscale_image,
)
from slidelift.models.evaluation_report import image_report
from slidelift.models.image_files import image_files, read_rgb
from slidelift.models.interpolate import Interpolator
from slidelift.models.metrics.measures import MEASURES, Reference, measure
from slidelift.models.metrics.source import SourceModel
from slidelift.models.report_crops import CropPicker
from slidelift.models.upscaler import load_upscaler
from slidelift.models.zoo.catalog import DEFAULT_MODEL

MODELS = {name: Interpolator(name, 4) for name in ("bicubic", "nearest")}


@pytest.fixture
def folder(tmp_path):
    """Two smooth images with an edge, with sizes that are not multiples of four."""
    images = tmp_path / "edges"
    images.mkdir()
    for seed, (height, width) in enumerate([(50, 61), (104, 97)]):
        y, x = np.mgrid[:height, :width]
        waves = 127 + 90 * np.sin(x / (5 + seed)) * np.cos(y / 7) + 30 * (x > width // 2)
        pixels = np.stack([waves, waves * 0.7, 255 - waves], axis=2).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{seed}.png")
    return images


def test_source_is_pillows_reduction_of_the_top_left_crop(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (23, 18, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    compared = reference(tmp_path / "a.png", 4)
    assert np.array_equal(compared.truth, image[:20, :16])
    assert np.array_equal(
        compared.source, np.asarray(Image.fromarray(compared.truth).resize((4, 5), Image.Resampling.BICUBIC))
    )


def test_enlarged_image_is_not_shifted():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert np.array_equal(upscale_image(Interpolator("nearest", 4), image), image.repeat(4, axis=0).repeat(4, axis=1))


def test_summary_ignores_non_finite_values():
    # of 0, 1 ... 100 the percentiles are their own names
    summary = Summary.of([math.nan, math.inf, *range(101)])
    assert summary == Summary(images=101, mean=50, median=50, p5=5, p95=95)
    assert Summary.of([math.inf]).images == 0
    assert math.isnan(Summary.of([]).mean)


def test_gains_are_over_bicubic_on_the_same_images(folder):
    scores = evaluate(MODELS, image_files(folder), 4)
    nearest, bicubic = scores.models["nearest"], scores.models["bicubic"]
    assert scores.files == ("0.png", "1.png")
    assert bicubic.gain["psnr_y"].mean == bicubic.gain["ssim_y"].mean == 0
    assert nearest.gains["psnr_y"][1] == nearest.values["psnr_y"][1] - bicubic.values["psnr_y"][1]
    assert nearest.gain["psnr_y"].mean < 0
    assert f"| edges | 2 | none | nearest | {nearest.summary['psnr_y'].mean:.2f} |" in table({"edges": scores})


def test_two_runs_differ_only_in_time(folder):
    first, second = (as_json({"a": evaluate(MODELS, image_files(folder), 4)}, MODELS, 4, 0.25) for _ in range(2))
    for result in (first, second):
        for model in result["sets"]["a"]["models"].values():
            for part in ("values", "summary", "gain", "panel"):
                model[part].pop("seconds_per_megapixel")
    assert first == second


def test_compressed_source_is_compared_to_the_same_truth_and_reported(folder):
    source = SourceModel(quality=30)
    clean, scores = (evaluate(MODELS, image_files(folder), 4, source=one) for one in (CLEAN, source))
    assert scores.source == source
    assert all(
        a < b
        for a, b in zip(
            scores.models["bicubic"].values["psnr_y"], clean.models["bicubic"].values["psnr_y"], strict=True
        )
    )
    assert "| edges | 2 | Q30 | bicubic |" in table({"edges, Q30": scores})
    report = as_json({"edges, Q30": scores}, MODELS, 4, 0.25)
    assert report["sets"]["edges, Q30"]["source"]["quality"] == 30
    assert report["computed_on"]["models"]["nearest"] == {"device": "cpu", "precision": "uint8"}
    assert "JPEG by quality 30, 4:2:0" in image_report({"edges": scores}, (), 4, 0.25, "Computed here.")


def test_only_the_requested_measures_are_computed(folder):
    scores = evaluate(MODELS, image_files(folder), 4, measures=("psnr_y",)).models["nearest"]
    assert set(scores.values) == {"psnr_y", "seconds_per_megapixel"}
    assert scores.values["psnr_y"] == evaluate(MODELS, image_files(folder), 4).models["nearest"].values["psnr_y"]


def test_json_holds_every_measure_and_no_nan(folder):
    report = as_json({"edges": evaluate(MODELS, image_files(folder), 4)}, MODELS, 4, 0.25)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    model = report["sets"]["edges"]["models"]["nearest"]
    assert set(model["values"]) == {one.name for one in MEASURES} - {"ssim_inside", "ssim_outside"}
    assert set(model["values"]) <= set(report["measures"])
    assert all(len(values) == 2 for values in model["values"].values())
    assert {"psnr_y", "psnr_y_gain", "ssim_y_gain", "ms_ssim", "rrmse", "consistency_p5"} <= set(model["panel"])


def test_card_metrics_use_the_5th_percentile_of_consistency_and_the_greater_angle():
    means = {one.name: (1.0, 1.0) for one in MEASURES}
    means |= {"consistency": (40.0, 60.0), "stain_angle_h": (2.0, 4.0), "nuclei_f1": (math.nan, math.nan)}
    figures = card_metrics(ModelScores(means, dict.fromkeys(means, (0.5, 1.0))))
    # the 5th percentile of two values lies a twentieth of the way from the lower to the higher
    assert figures["consistency_p5"] == 41
    assert figures["stain_angle"] == 3
    assert figures["psnr_y_gain"] == 0.25
    assert "nuclei_f1" not in figures


def test_identical_image_has_perfect_measures():
    truth = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    values = measure(truth, Reference(truth, CLEAN(truth, 4), np.eye(64, dtype=bool)))
    assert values["psnr_y"] == values["psnr_rgb"] == values["consistency"] == math.inf
    assert values["mse"] == values["rrmse"] == values["stain_angle_h"] == values["stain_angle_e"] == 0
    for name in ("ssim_y", "ssim_rgb", "ms_ssim", "qilv", "ssim_inside", "ssim_outside"):
        assert values[name] == pytest.approx(1), name
    assert values["nuclei_count"] == values["nuclei_truth"]


@pytest.mark.parametrize("side", [4, 9, 15])
def test_tiny_image_has_fewer_measures(tmp_path, side):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(tmp_path / "a.png")
    picker = CropPicker("bicubic")
    scores = evaluate(MODELS, image_files(tmp_path), 4, on_image=picker.add)
    assert math.isfinite(scores.models["nearest"].summary["psnr_y"].mean)
    assert (scores.models["nearest"].summary["ms_ssim"].images == 0) is (side < 15)
    assert "<html" in image_report({"tiny": scores}, picker.crops, 4, 0.25, "Computed here.")


def test_error_names_an_image_smaller_than_the_scale(tmp_path):
    Image.new("RGB", (3, 40)).save(tmp_path / "a.png")
    with pytest.raises(ImagesError, match=r"a\.png: 3x40 px are too few"):
        evaluate(MODELS, image_files(tmp_path), 4)


def test_grey_image_is_read_as_three_equal_channels(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png"), np.stack([pixels] * 3, axis=2))


def test_mask_separates_inside_and_outside(folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in image_files(folder):
        height, width, _ = read_rgb(path).shape
        mask = np.zeros((height, width), np.uint8)
        mask[:, : width // 2] = 1
        Image.fromarray(mask).save(masks / path.name)
    scores = evaluate(MODELS, image_files(folder), 4, masks=masks).models["nearest"].summary
    assert scores["ssim_inside"].images == scores["ssim_outside"].images == 2
    low, high = sorted((scores["ssim_inside"].mean, scores["ssim_outside"].mean))
    assert low < scores["ssim_y"].mean < high


def test_error_names_a_missing_or_wrong_mask(folder, tmp_path):
    with pytest.raises(ImagesError, match=r"masks/0\.png"):
        evaluate(MODELS, image_files(folder), 4, masks=tmp_path / "masks")
    (tmp_path / "masks").mkdir()
    Image.new("L", (60, 50)).save(tmp_path / "masks" / "0.png")
    with pytest.raises(ImagesError, match=r"60x50 px; 0\.png has 61x50"):
        evaluate(MODELS, image_files(folder), 4, masks=tmp_path / "masks")


def test_error_names_folders_without_images_and_damaged_files(tmp_path):
    with pytest.raises(ImagesError, match=str(tmp_path)):
        image_files(tmp_path)
    with pytest.raises(ImagesError, match="nowhere"):
        image_files(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImagesError, match=r"a\.png"):
        read_rgb(tmp_path / "a.png")


def test_crops_have_the_largest_and_smallest_gain(tmp_path):
    truth = np.full((192, 288, 3), 128, np.uint8)
    bicubic, model = truth.copy(), truth.copy()
    bicubic[:96, 96:192] += 20  # all of the error is gone: the largest gain
    model[96:, 192:] += 20  # an error that was not there: the smallest
    picker = CropPicker("bicubic")
    picker.add(tmp_path / "set" / "a.png", Reference(truth, truth[::4, ::4]), {"bicubic": bicubic, "model": model})
    largest, smallest = picker.crops
    assert (largest.x, largest.y, smallest.x, smallest.y) == (96, 0, 192, 96)
    # luma is off by 20 * 219 / 255 = 17.18, squared 295.0; with 0.5 for rounding 10 log10(295.5 / 0.5) = 27.72 dB
    assert largest.gain == pytest.approx(27.72, abs=0.01)
    assert smallest.gain == pytest.approx(-27.72, abs=0.01)
    assert largest.label == "set/a.png"
    assert largest.errors["bicubic"].mean() == pytest.approx(17.18, abs=0.01)
    assert largest.source.shape == (24, 24, 3)


def test_report_without_crops_has_no_images(folder):
    picker = CropPicker("bicubic")
    scores = {"edges": evaluate(MODELS, image_files(folder, 1), 4, on_image=picker.add)}
    assert "data:image/png" in image_report(scores, picker.crops, 4, 0.25, "Computed here.")
    assert "data:image" not in image_report(scores, (), 4, 0.25, "Computed here.")


def test_names_are_escaped_in_the_report(folder):
    scores = {"<b>&": evaluate({**MODELS, "<script>": MODELS["nearest"]}, image_files(folder, 1), 4)}
    report = image_report(scores, (), 4, 0.25, "Computed here.")
    assert "<script>" not in report
    assert "&lt;b&gt;&amp;" in report


@pytest.mark.parametrize(("quality", "least"), [(92, 0.4), (70, 0.15), (30, 0.05)])
def test_shipped_default_beats_bicubic_on_compressed_sources(eval_sets, quality, least):
    upscalers = {name: load_upscaler(name, device="cpu") for name in (DEFAULT_MODEL, "bicubic")}
    for name, count in (("tnbc", 3), ("kumar", 1)):
        scores = evaluate(
            upscalers,
            image_files(eval_sets / name, count),
            4,
            source=SourceModel(quality=quality),
            measures=("psnr_y",),
        )
        assert scores.models[DEFAULT_MODEL].gain["psnr_y"].mean > least, name


def test_shipped_default_beats_bicubic_on_both_eval_sets(eval_sets):
    upscalers = {name: load_upscaler(name, device="cpu") for name in (DEFAULT_MODEL, "bicubic")}
    for name, count in (("tnbc", 3), ("kumar", 1)):
        gain = evaluate(upscalers, image_files(eval_sets / name, count), 4).models[DEFAULT_MODEL].gain
        assert gain["psnr_y"].mean > 0.8, name
        assert gain["ssim_y"].mean > 0.02, name
        assert gain["qilv"].mean > 0, name
