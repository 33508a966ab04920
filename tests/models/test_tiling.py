"""Tiled and untiled results of exact models are identical."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from slidelift.models.inference import NetworkUpscaler
from slidelift.models.interpolate import Interpolator
from slidelift.models.networks.spec import Geometry
from slidelift.models.networks.table import NETWORKS
from slidelift.models.upscaler import PatchUpscaler
from slidelift.models.zoo.catalog import ModelKind, catalog


def cores(side: int, core: int) -> Iterator[tuple[int, int]]:
    for first in range(0, side, core):
        yield first, min(first + core, side)


def upscale_in_tiles(upscaler: PatchUpscaler, image: np.ndarray, core: int) -> np.ndarray:
    """Enlarge each tile with its halo of the mirrored image, and join the cores."""
    halo, scale = upscaler.halo, upscaler.scale
    padded = np.pad(image, ((halo, halo), (halo, halo), (0, 0)), mode="symmetric")
    height, width, _ = image.shape
    out = np.zeros((height * scale, width * scale, 3), np.uint8)
    for top, bottom in cores(height, core):
        for left, right in cores(width, core):
            patch = padded[top : bottom + 2 * halo, left : right + 2 * halo]
            enlarged = upscaler(patch[None])[0]
            inner = enlarged[halo * scale :, halo * scale :][: (bottom - top) * scale, : (right - left) * scale]
            out[top * scale : bottom * scale, left * scale : right * scale] = inner
    return out


class ExactUpscalerContract:
    """Contract of exact models; subclasses provide the `upscaler` fixture."""

    @pytest.fixture
    def upscaler(self) -> PatchUpscaler:
        raise NotImplementedError

    @pytest.mark.parametrize(("height", "width", "core"), [(40, 56, 16), (37, 41, 20), (90, 100, 45), (24, 25, 24)])
    def test_tiled_result_equals_the_untiled_one(self, upscaler, height, width, core):
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        whole = upscale_in_tiles(upscaler, image, core=1000)
        tiled = upscale_in_tiles(upscaler, image, core)
        assert int(np.abs(whole.astype(int) - tiled).max()) == 0

    def test_output_does_not_depend_on_batching(self, upscaler, patches):
        together = upscaler(patches)
        alone = np.concatenate([upscaler(patch[None]) for patch in patches])
        assert np.array_equal(together, alone)

    def test_output_covers_the_whole_patch_in_uint8(self, upscaler, patches):
        out = upscaler(patches)
        count, height, width, _ = patches.shape
        assert out.shape == (count, upscaler.scale * height, upscaler.scale * width, 3)
        assert out.dtype == np.uint8

    def test_output_is_deterministic_and_input_is_not_modified(self, upscaler, patches):
        before = patches.copy()
        assert np.array_equal(upscaler(patches), upscaler(patches))
        assert np.array_equal(patches, before)

    def test_exact_models_do_not_fade(self, upscaler):
        assert upscaler.exact
        assert upscaler.fade == 0


INTERPOLATIONS = [card for card in catalog().values() if card.kind is ModelKind.INTERPOLATION]


class TestInterpolation(ExactUpscalerContract):
    @pytest.fixture(params=[(card.name, scale) for card in INTERPOLATIONS for scale in card.scales], ids=str)
    def upscaler(self, request) -> PatchUpscaler:
        return Interpolator(*request.param)


def is_exact(name: str) -> bool:
    spec = NETWORKS[name]
    return spec.geometry({"scale": 4} | spec.hyperparameters(spec.build().state_dict())).exact


class TestExactNetworks(ExactUpscalerContract):
    @pytest.fixture(params=filter(is_exact, NETWORKS))
    def upscaler(self, request, tiny_network) -> PatchUpscaler:
        network, spec = tiny_network(request.param), NETWORKS[request.param]
        geometry = spec.geometry({"scale": 4} | spec.hyperparameters(network.state_dict()))
        return NetworkUpscaler(network, geometry, name="tiny", fingerprint="0", device="cpu", precision="fp32")


class TestCompactAtOtherDepthsAndScales(ExactUpscalerContract):
    @pytest.fixture(params=[(1, 2), (6, 3), (2, 1)], ids=str)
    def upscaler(self, request, tiny_network) -> PatchUpscaler:
        convolutions, scale = request.param
        network = tiny_network("srvgg-compact", noise=0.05, shift=None, convolutions=convolutions, scale=scale)
        geometry = NETWORKS["srvgg-compact"].geometry({"convolutions": convolutions, "scale": scale})
        return NetworkUpscaler(network, geometry, name="tiny", fingerprint="0", device="cpu", precision="fp32")


class TestRRDBNetReadWithItsWholeReceptiveRadius(ExactUpscalerContract):
    """RRDBNet is inexact only because a halo of 349 pixels is too large."""

    @pytest.fixture
    def upscaler(self, tiny_network) -> PatchUpscaler:
        geometry = NETWORKS["rrdbnet"].geometry({"scale": 4})
        geometry = replace(geometry, halo=15 * 1 + 4, exact=True, fade=0)
        network = tiny_network("rrdbnet", noise=0.05)
        return NetworkUpscaler(network, geometry, name="tiny", fingerprint="0", device="cpu", precision="fp32")


@pytest.mark.parametrize("side", [12, 82, 83, 90])
def test_small_patches_use_the_kernel_of_large_ones(tiny_network, side):
    """torch chooses between two kernels by the size of a single CPU patch; they differ in the last bit."""
    network, geometry = (
        tiny_network("srvgg-compact", noise=0.05, shift=None),
        Geometry(scale=4, halo=5, exact=False, fade=1),
    )
    upscaler = NetworkUpscaler(network, geometry, name="tiny", fingerprint="0", device="cpu", precision="fp32")
    large = np.random.default_rng(side).integers(0, 256, (1, 120, 130, 3), np.uint8)
    inner = slice(5 * 4, (side - 5) * 4)
    assert np.array_equal(upscaler(large[:, :side, :side])[:, inner, inner], upscaler(large)[:, inner, inner])


def test_skipping_the_halo_does_not_change_the_rest(tiny_network):
    given = np.random.default_rng(0).integers(0, 256, (1, 140, 150, 3), np.uint8)
    geometry = NETWORKS["srvgg-compact"].geometry({"convolutions": 6, "scale": 4})
    results, halo = [], geometry.halo * 4
    for exact in (True, False):
        network = tiny_network("srvgg-compact", noise=0.05, shift=None, convolutions=6)
        upscaler = NetworkUpscaler(
            network, replace(geometry, exact=exact), name="tiny", fingerprint="0", device="cpu", precision="fp32"
        )
        out = upscaler(given)
        results.append((out if exact else np.rint(out))[:, halo:-halo, halo:-halo])
        assert out.shape == (1, 560, 600, 3)
    assert np.array_equal(*results)
