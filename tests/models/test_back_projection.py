"""Back-projection: consistency with the source, and exact tiling."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from slidelift.models.inference import NetworkUpscaler
from slidelift.models.networks.back_projection import SCALES, BackProjected
from slidelift.models.networks.table import NETWORKS
from slidelift.models.zoo.weights import load_weights, save_weights

TINY = {"features": 8, "convolutions": 2}


@pytest.fixture(params=SCALES)
def weights(request, tmp_path, tiny_network):
    """Weights of a compact network with strong random detail, marked as trained with back-projection."""
    spec, scale = NETWORKS["srvgg-compact"], request.param
    network = tiny_network("srvgg-compact", noise=0.05, scale=scale, **TINY)
    path = tmp_path / "w.safetensors"
    save_weights(path, spec, {**TINY, "scale": scale}, network.state_dict(), {"back_projection": "1"}, half=False)
    return load_weights(path)


def upscaler_of(weights, **changes) -> NetworkUpscaler:
    return NetworkUpscaler(
        weights.assembled(), replace(weights.geometry, **changes), name="n", fingerprint="f", device="cpu"
    )


def enlarge(upscaler: NetworkUpscaler, image: np.ndarray, core: int) -> np.ndarray:
    halo, scale = upscaler.halo, upscaler.scale
    padded = np.pad(image, ((halo, halo), (halo, halo), (0, 0)), mode="symmetric")
    height, width, _ = image.shape
    rows = []
    for top in range(0, height, core):
        row = []
        for left in range(0, width, core):
            bottom, right = min(top + core, height), min(left + core, width)
            out = upscaler(padded[None, top : bottom + 2 * halo, left : right + 2 * halo])[0]
            row.append(out[halo * scale : -halo * scale, halo * scale : -halo * scale])
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


@pytest.mark.parametrize("size", [(61, 75), (40, 64)])
def test_tiles_join_exactly_at_the_wider_halo_only(weights, size) -> None:
    image = np.random.default_rng(4).integers(0, 256, (*size, 3), np.uint8)
    whole = enlarge(upscaler_of(weights), image, core=1000)
    assert np.array_equal(enlarge(upscaler_of(weights), image, core=23), whole)
    narrow = upscaler_of(weights, halo=weights.spec.geometry(weights.hyperparameters).halo)
    assert not np.array_equal(enlarge(narrow, image, core=23), whole)


def test_reduced_result_equals_the_source(weights, data) -> None:
    with Image.open(data / "slides" / "prostate-with-ink.jpeg") as slide:
        image = np.array(slide.convert("RGB").crop((2000, 300, 2096, 364)))
    errors = {}
    for name, network in (("without", weights.network), ("with", weights.assembled())):
        with torch.inference_mode():
            out = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].permute(1, 2, 0).numpy()
        channels = [
            Image.fromarray(out[..., c] * 255).resize(image.shape[1::-1], Image.Resampling.BICUBIC) for c in range(3)
        ]
        errors[name] = np.abs(np.stack(channels, -1) - image)[4:-4, 4:-4].mean()
    assert errors["with"] < 0.35 * errors["without"]


def test_unsupported_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="not at 3"):
        BackProjected(torch.nn.Identity(), 3)


def test_step_is_part_of_the_fingerprint(weights, tmp_path) -> None:
    path = tmp_path / "plain.safetensors"
    save_weights(path, weights.spec, weights.hyperparameters, weights.network.state_dict(), {}, half=False)
    assert load_weights(path).fingerprint != weights.fingerprint
