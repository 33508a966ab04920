"""Measurement of the seam between tiles."""

import numpy as np
import pytest
import torch
from PIL import Image

from slidelift.models.inference import NetworkUpscaler
from slidelift.models.interpolate import Interpolator
from slidelift.models.networks.rrdbnet import SPEC
from slidelift.service.tools.measure_halo import main, measure_seam

IMAGES = [np.random.default_rng(seed).integers(40, 220, (20, 120, 3), np.uint8) for seed in range(2)]


def test_exact_model_has_no_seam():
    seam = measure_seam(Interpolator("lanczos", 4), IMAGES, halo=3, fade=8)
    assert seam.disagreement.greatest == seam.faded_error.greatest == 0


@pytest.mark.parametrize("scale", [4, 2])
def test_seam_shrinks_with_the_halo_to_zero_at_the_receptive_radius(tiny_network, scale):
    network = tiny_network("rrdbnet", noise=0.05, scale=scale)
    geometry = SPEC.geometry({"scale": scale})
    upscaler = NetworkUpscaler(network, geometry, name="tiny", fingerprint="0", device="cpu", precision="fp32")
    radius = {4: 19, 2: 38}[scale]
    narrow, wide, whole = (measure_seam(upscaler, IMAGES, halo, fade=4) for halo in (0, 4, radius))
    assert narrow.disagreement.greatest > wide.disagreement.greatest > whole.disagreement.greatest
    assert whole.disagreement.greatest < 0.01
    assert narrow.faded_error.greatest <= narrow.disagreement.greatest


def test_smaller_halo_than_an_exact_models_is_refused():
    with pytest.raises(ValueError, match="lanczos is exact and needs a halo of 3"):
        measure_seam(Interpolator("lanczos", 4), IMAGES, halo=2, fade=8)


def test_image_too_narrow_for_the_halo_is_refused():
    with pytest.raises(ValueError, match="too narrow for a halo of 60"):
        measure_seam(Interpolator("bicubic", 4), IMAGES, halo=60, fade=8)


def test_halo_must_be_a_multiple_of_the_size_multiple(tiny_network):
    network = tiny_network("rrdbnet", scale=2)
    upscaler = NetworkUpscaler(network, SPEC.geometry({"scale": 2}), name="tiny", fingerprint="0", device="cpu")
    with pytest.raises(ValueError, match="multiples of 2"):
        measure_seam(upscaler, IMAGES, halo=15, fade=4)


def test_command_measures_a_users_own_file(tmp_path, tiny_network, capsys):
    torch.save({"params_ema": tiny_network("rrdbnet").state_dict()}, tmp_path / "mine.pth")
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(40, 220, (80, 320, 3), np.uint8)).save(images / "a.png")
    main(["--model", str(tmp_path / "mine.pth"), "--images", str(images), "--halos", "2,20", "--fade", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("rrdbnet-x4-")
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| 2", "| 20"]
