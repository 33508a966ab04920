"""Scores follow the convention, and the shipped default earns its place."""

import json

import numpy as np
import pytest
from PIL import Image

from models.evaluate import evaluate, image_files, main, reduce, table, upscale_image
from models.interpolate import Interpolator
from models.upscaler import load_upscaler
from models.zoo.catalog import DEFAULT_MODEL


@pytest.fixture
def folder(tmp_path):
    """Two smooth images with an edge, of sizes that four does not divide."""
    images = tmp_path / "edges"
    images.mkdir()
    for seed, (height, width) in enumerate([(50, 61), (64, 47)]):
        y, x = np.mgrid[:height, :width]
        waves = 127 + 90 * np.sin(x / (5 + seed)) * np.cos(y / 7) + 30 * (x > width // 2)
        pixels = np.stack([waves, waves * 0.7, 255 - waves], axis=2).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{seed}.png")
    return images


def test_source_is_pillows_reduction_of_the_top_left_crop():
    image = np.random.default_rng(0).integers(0, 256, (23, 18, 3), np.uint8)
    truth, source = reduce(image, 4)
    assert np.array_equal(truth, image[:20, :16])
    assert np.array_equal(source, np.asarray(Image.fromarray(truth).resize((4, 5), Image.Resampling.BICUBIC)))


def test_whole_image_is_enlarged_without_a_shift():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert np.array_equal(upscale_image(Interpolator("nearest", 4), image), image.repeat(4, axis=0).repeat(4, axis=1))


def test_gains_are_against_bicubic_on_the_same_images(folder):
    models = {name: Interpolator(name, 4) for name in ("bicubic", "nearest")}
    scores = evaluate(models, image_files(folder), 4)
    assert scores["bicubic"].psnr_y_gain == scores["bicubic"].ssim_y_gain == 0
    assert scores["nearest"].images == 2
    assert scores["nearest"].psnr_y_gain == pytest.approx(scores["nearest"].psnr_y - scores["bicubic"].psnr_y)
    assert scores["nearest"].psnr_y_gain < 0
    assert "| edges | 2 | bicubic |" in table({"edges": scores})


def test_command_line_reports_bicubic_beside_what_was_asked_for(folder, tmp_path, capsys):
    out = tmp_path / "scores.json"
    main(["--images", str(folder), "--models", "lanczos", "--scale", "2", "--json", str(out)])
    scores = json.loads(out.read_text())["edges"]
    assert list(scores) == ["bicubic", "lanczos"]
    assert f"| lanczos | {scores['lanczos']['psnr_y']:.2f} |" in capsys.readouterr().out


def test_folder_without_images_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        image_files(tmp_path)


def test_shipped_default_beats_bicubic_on_both_eval_sets(eval_sets):
    models = {name: load_upscaler(name, device="cpu") for name in (DEFAULT_MODEL, "bicubic")}
    for name, count in (("tnbc", 6), ("kumar", 3)):
        score = evaluate(models, image_files(eval_sets / name, count), 4)[DEFAULT_MODEL]
        assert score.psnr_y_gain > 0.8, name
        assert score.ssim_y_gain > 0.02, name
