"""Degradations: determinism, quantisation and colours; components against Pillow, SciPy and computed values."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from slidelift.models.data.degrade import DEGRADATIONS, compress, gaussian, mixed, reduce_area, reduce_bicubic, scanner
from slidelift.models.data.draws import choose
from slidelift.models.data.jpeg import CHROMA_STEP, jpeg, quality_of_steps, steps_of_quality
from slidelift.models.data.kernels import filter_each, gaussian_kernels, lowpass_kernels, pulse_kernels, shaped_kernels
from slidelift.models.data.pair import Pair, crop_pair
from slidelift.models.data.pool import PairPool
from slidelift.models.data.second_order import (
    FIRST,
    SECOND,
    _add_gaussian,
    _add_poisson,
    blur_kernels,
    realesrgan,
    sharpen,
)
from slidelift.models.data.stain import odd_colours, stain_jitter

FAITHFUL = {"scanner": {"noise_share": 0.0, "jpeg_share": 0.0}}
"""Parameters without colour changes; JPEG alone may shift a colour by two grey levels."""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def high() -> Tensor:
    """Smooth coloured blobs quantised to 8 bits, (4, 3, 96, 96), with a margin for overshoot."""
    noise = np.random.default_rng(1).random((4, 3, 96, 96))
    blobs = np.clip(gaussian_filter(noise, (0, 0, 2, 2), mode="wrap") * 5 - 2, 0.15, 0.85)
    return torch.from_numpy(np.round(blobs * 255) / 255).float()


def as_picture(crop: Tensor) -> Image.Image:
    return Image.fromarray(crop.mul(255).round().byte().permute(1, 2, 0).numpy())


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degradation_depends_only_on_the_generators_state(name, high):
    generator = rng(3)
    state = generator.get_state()
    one = DEGRADATIONS[name](high, 4, generator)
    generator.set_state(state)
    other = DEGRADATIONS[name](high, 4, generator)
    assert torch.equal(one.low, other.low)
    assert torch.equal(one.target, other.target)
    assert torch.equal(one.high, high)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_low_resolution_is_8_bits_of_the_right_size(name, scale, high):
    for seed in range(4):
        low = DEGRADATIONS[name](high, scale, rng(seed)).low
        assert low.shape == (4, 3, 96 // scale, 96 // scale)
        assert low.dtype == torch.float32
        assert 0 <= float(low.min()) <= float(low.max()) <= 1
        assert torch.allclose(low * 255, (low * 255).round(), atol=1e-4)
        assert low.is_contiguous()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", sorted(set(DEGRADATIONS) - {"realesrgan"}))
def test_constant_colour_is_preserved(name, scale):
    colour = torch.tensor([180.0, 96.0, 201.0])[None, :, None, None] / 255
    for seed in range(4):
        parameters = FAITHFUL.get(name, {})
        low = DEGRADATIONS[name](colour.expand(4, 3, 96, 96), scale, rng(seed), **parameters).low
        assert float((low - colour).abs().max()) * 255 <= 1.01


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_input_crops_are_not_modified(name, high):
    before = high.clone()
    DEGRADATIONS[name](high, 4, rng())
    assert torch.equal(high, before)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_equals_pillows_within_a_grey_level(scale, high):
    low = DEGRADATIONS["bicubic"](high, scale, rng()).low
    for crop, reduced in zip(high, low, strict=True):
        pillow = as_tensor(as_picture(crop).resize((96 // scale, 96 // scale), Image.Resampling.BICUBIC))
        assert float((pillow - reduced).abs().max()) * 255 <= 1.01


def test_area_equals_block_means(high):
    expected = high.reshape(4, 3, 24, 4, 24, 4).mean((3, 5))
    assert torch.allclose(reduce_area(high, 4), expected, atol=1e-6)


def test_mixed_uses_one_of_the_two_reductions_per_crop(high):
    low = mixed(high.repeat(8, 1, 1, 1), 4, rng(), bicubic_share=0.5).low
    one, other = (kind(high, 4, rng()).low for kind in (DEGRADATIONS["bicubic"], DEGRADATIONS["area"]))
    is_one = (low == one.repeat(8, 1, 1, 1)).all((1, 2, 3))
    is_other = (low == other.repeat(8, 1, 1, 1)).all((1, 2, 3))
    assert (is_one ^ is_other).all()
    assert 4 < int(is_one.sum()) < 28


@pytest.mark.parametrize(("scale", "sigma"), [(3, 1.2), (2, 2.0)])
def test_gaussian_smooths_as_scipy_and_samples_block_centres(scale, sigma, high):
    low = gaussian(high, scale, rng(), sigma=sigma).low.numpy()
    if scale == 3:  # the middle of a block is a pixel
        smooth = gaussian_filter(high.double().numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=6)[
            ..., 1::3, 1::3
        ]
    else:  # it lies between pixels: a ramp tells where
        ramp = torch.linspace(0, 1, 96).expand(1, 3, 96, 96)
        low = gaussian(ramp, 2, rng(), sigma=sigma).low.numpy()[..., 8:-8]
        smooth = ((np.arange(48) * 2 + 0.5) / 95)[8:-8]
    assert np.abs(low - smooth).max() * 255 < 1.1


def test_scanner_without_artefacts_is_the_reduction(high):
    low = scanner(high, 4, rng(), bicubic_share=1.0, blur_share=0, noise_share=0, jpeg_share=0).low
    assert torch.equal(low, DEGRADATIONS["bicubic"](high, 4, rng()).low)


def test_scanner_noise_has_the_requested_deviation():
    grey = torch.full((8, 3, 256, 256), 128 / 255)
    low = scanner(grey, 4, rng(), noise_share=1, noises=(4, 4), jpeg_share=0).low
    # rounding adds the variance of a uniform error, 1/12
    assert float(low.sub(128 / 255).mul(255).std()) == pytest.approx(math.sqrt(16 + 1 / 12), rel=0.02)


@pytest.mark.parametrize("sampling", CHROMA_STEP)
@pytest.mark.parametrize("quality", [30, 49, 75, 95])
@pytest.mark.parametrize("side", [96, 41])
def test_jpeg_equals_pillows_result(quality, sampling, side, high):
    crops = high[:, :, :side, : side - 2]
    ours = jpeg(crops, torch.full((4,), float(quality)), sampling)
    assert ours.shape == crops.shape
    for crop, stored in zip(crops, ours, strict=True):
        buffer = io.BytesIO()
        kept = {"keep_rgb": True} if sampling == "RGB" else {"subsampling": sampling}
        as_picture(crop).save(buffer, "JPEG", quality=quality, **kept)
        pillow = as_tensor(Image.open(buffer))
        assert float((pillow - stored).abs().mean()) * 255 < 1.5
        assert float((pillow - stored).abs().mean()) < 0.3 * float((pillow - crop).abs().mean())


def test_jpeg_has_a_quality_per_sample(high):
    together = jpeg(high, torch.tensor([30.0, 50.0, 70.0, 95.0]), "4:2:0")
    alone = [jpeg(high[i : i + 1], torch.tensor([q]), "4:2:0") for i, q in enumerate((30.0, 50.0, 70.0, 95.0))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_quality_and_steps_are_inverse_functions():
    quality = torch.arange(1.0, 101)
    assert torch.allclose(quality_of_steps(steps_of_quality(quality)), quality, atol=1e-3)


def test_compress_changes_the_requested_share(high):
    crops = high.repeat(16, 1, 1, 1)
    changed = (compress(crops, 0.5, (30, 40), rng()) != crops).flatten(1).any(1)
    assert 20 < int(changed.sum()) < 44
    assert torch.equal(compress(crops, 0.0, (30, 40), rng()), crops)
    assert (compress(crops, 1.0, (30, 40), rng()) != crops).flatten(1).any(1).all()


@pytest.mark.parametrize("order", [FIRST, SECOND])
def test_blur_kernels_sum_to_one(order):
    kernels = blur_kernels(400, order, rng())
    assert kernels.shape == (400, 21, 21)
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(400), atol=1e-5)
    assert torch.allclose(kernels, kernels.flip(1, 2), atol=1e-6)


def test_blur_kernels_have_the_drawn_sizes():
    sides = torch.tensor([7, 13, 21])
    wide = torch.full((3, 2), 50.0)
    kernels = shaped_kernels(21, sides, wide, torch.zeros(3), torch.ones(3), torch.zeros(3, dtype=torch.bool))
    assert (kernels > 0).flatten(1).sum(1).tolist() == [49, 169, 441]


def test_shaped_kernels_have_the_moments_of_their_gaussian():
    sigmas, angle = torch.tensor([[2.0, 1.0]]), torch.tensor([math.pi / 6])
    kernel = shaped_kernels(21, torch.tensor([21]), sigmas, angle, torch.ones(1), torch.zeros(1, dtype=torch.bool))[0]
    y, x = np.mgrid[-10:11, -10:11]
    moments = [float((kernel.numpy() * term).sum()) for term in (x * x, y * y, x * y)]
    # R diag(4, 1) R^T at 30 degrees
    assert moments == pytest.approx([3.25, 1.75, 3 * math.sqrt(3) / 4], rel=2e-3)


def test_plateau_is_one_half_at_one_deviation():
    kernel = shaped_kernels(
        21, torch.tensor([21]), torch.full((1, 2), 3.0), torch.zeros(1), torch.full((1,), 1.7), torch.ones(1).bool()
    )[0]
    assert float(kernel[10, 13] / kernel[10, 10]) == pytest.approx(0.5)


def test_lowpass_kernels_have_the_requested_cutoff():
    kernel = lowpass_kernels(101, torch.tensor([101]), torch.tensor([math.pi / 2]))[0].double()
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    response = torch.fft.fft(kernel.sum(0)).abs()  # along x, from 0 to 2 pi
    assert float((response[:20] - 1).abs().max()) < 0.1
    assert float(response[31:51].max()) < 0.1


def test_each_image_is_filtered_by_its_own_kernel(high):
    kernels = torch.cat([pulse_kernels(1, 21), gaussian_kernels(21, torch.tensor([1.5]))])
    sharp, blurred = filter_each(high[:2], kernels)
    assert torch.equal(sharp, high[0])
    expected = gaussian_filter(high[1].double().numpy(), (0, 1.5, 1.5), mode="mirror", radius=(0, 10, 10))
    assert np.abs(blurred.numpy() - expected).max() < 1e-5


def test_choose_follows_the_shares():
    counts = torch.bincount(choose((0.2, 0.7, 0.1), 20_000, rng()), minlength=3) / 20_000
    assert counts.tolist() == pytest.approx([0.2, 0.7, 0.1], abs=0.02)
    assert set(choose((0.0, 1.0, 0.0), 100, rng()).tolist()) == {1}


def test_unsharp_masking_sharpens_only_edges():
    step = torch.full((1, 3, 128, 128), 0.3)
    step[..., 64:] = 0.7
    sharp = sharpen(step)
    assert torch.allclose(sharp[..., :8], step[..., :8], atol=1e-4)
    # at the edge the blur is halfway: the residual is 0.2, half of it is added where the mask is nearly one
    assert 0.3 - 0.1 - 0.005 < float(sharp[0, 0, 64, 63]) < 0.3 - 0.05
    assert torch.equal(sharpen(torch.full((1, 3, 64, 64), 0.5)), torch.full((1, 3, 64, 64), 0.5))


def test_realesrgans_real_image_is_not_sharpened(high):
    pair = realesrgan(high, 4, rng())
    assert torch.equal(pair.high, high)
    assert torch.equal(pair.target, sharpen(high))
    plain = realesrgan(high, 4, rng(), usm_weight=0)
    assert plain.target is plain.high


def test_realesrgan_keeps_the_mean_brightness(high):
    lows = torch.stack([realesrgan(high, 4, rng(seed)).low for seed in range(12)])
    assert float((lows.mean((0, 3, 4)) - high.mean((2, 3))).abs().max()) < 0.05


def test_realesrgan_noise_is_grey_where_requested():
    image = torch.full((2, 3, 64, 64), 0.5)
    grey = torch.tensor([True, False])
    for noisy in (
        _add_gaussian(image, torch.full((2,), 0.1), grey, rng()),
        _add_poisson(image, torch.ones(2), grey, rng()),
    ):
        noise = noisy - image
        assert torch.allclose(noise[0, 0], noise[0, 2])
        assert not torch.allclose(noise[1, 0], noise[1, 2])
    deviations = (_add_gaussian(image, torch.tensor([0.1, 0.05]), grey, rng()) - image).flatten(1).std(1)
    assert deviations.tolist() == pytest.approx([0.1, 0.05], rel=0.05)


def test_poisson_noise_has_the_variance_of_its_photons():
    # two grey levels: 2 photons at 1; at 102/255 the mean is 0.8 and the variance of the share 0.8 / 4
    image = torch.full((1, 3, 200, 200), 102 / 255)
    image[..., 0, 0] = 0
    noise = (_add_poisson(image, torch.ones(1), torch.tensor([False]), rng()) - image)[..., 1:, :]
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.var()) == pytest.approx(0.2, rel=0.03)


def test_pair_is_cropped_to_one_window(high):
    pair = Pair(reduce_area(high, 4), high, high + 1)
    cut = crop_pair(pair, 64, rng())
    assert cut.low.shape == (4, 3, 16, 16)
    assert torch.allclose(reduce_area(cut.high, 4), cut.low, atol=1e-6)
    assert torch.equal(cut.target, cut.high + 1)
    assert realesrgan(high, 4, rng(), final_side=64).low.shape == (4, 3, 16, 16)
    with pytest.raises(ValueError, match="can't cut"):
        crop_pair(pair, 66, rng())


def test_pair_of_wrong_sizes_is_refused():
    with pytest.raises(ValueError, match="no multiple"):
        DEGRADATIONS["bicubic"](torch.zeros(1, 3, 66, 66), 4, rng())


def test_stain_jitter_keeps_white_and_changes_the_share(high):
    crops = high.repeat(16, 1, 1, 1).clamp(0.01, 0.99)
    crops[..., 0, 0] = 1
    jittered = stain_jitter(crops, rng(), share=0.5)
    assert torch.equal(jittered[..., 0, 0], crops[..., 0, 0])
    changed = ~torch.isclose(jittered, crops, atol=1e-5).flatten(1).all(1)
    assert 20 < int(changed.sum()) < 44
    assert 0 <= float(jittered.min()) <= float(jittered.max()) <= 1


def test_stain_jitter_without_mixing_scales_density():
    crops = torch.full((4, 3, 8, 8), 0.5)
    assert torch.allclose(stain_jitter(crops, rng(), share=1, spread=0, gains=(2, 2)), crops**2)


def test_odd_colours_change_the_share_within_the_range(high):
    crops = high.repeat(16, 1, 1, 1).clamp(0.4, 0.6)
    odd = odd_colours(crops, rng(), share=0.5, gains=(1, 4), mosaic_share=0)
    changed = ~torch.isclose(odd, crops, atol=1e-6).flatten(1).all(1)
    assert 20 < int(changed.sum()) < 44
    assert 0 <= float(odd.min()) <= float(odd.max()) <= 1
    assert float(odd.std()) > 1.3 * float(crops.std())
    for before, after in zip(crops, odd, strict=True):  # each channel is one of those before, stretched or turned over
        for channel in after:
            shapes = [torch.corrcoef(torch.stack([channel.flatten(), one.flatten()]))[0, 1].abs() for one in before]
            assert max(shapes) > 0.99


def test_mosaic_has_blocks_of_one_colour(high):
    odd = odd_colours(high, rng(), share=1, mosaic_share=1)
    blocks = odd.unfold(2, 8, 8).unfold(3, 8, 8)  # of any of its sizes, 8 px are a part
    assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks))
    assert float(odd.std()) > 0.2


def numbered(first: int, count: int) -> Pair:
    low = torch.arange(first, first + count).float()[:, None, None, None].expand(count, 3, 1, 1)
    return Pair(low, low.repeat_interleave(2, 2).repeat_interleave(2, 3), low.expand(count, 3, 2, 2) + 0.5)


def test_pool_keeps_pairs_together_and_loses_none():
    pool, generator, returned = PairPool(8), rng(), []
    for batch in range(20):
        out = pool.exchange(numbered(4 * batch, 4), generator)
        assert torch.equal(out.high[:, :, :1, :1], out.low)
        assert torch.equal(out.target, out.high + 0.5)
        returned += out.low[:, 0, 0, 0].tolist()
        if batch < 2:
            assert returned[-4:] == [4 * batch + i for i in range(4)]
    # the first two batches come back at once and once more later; the last eight are still inside
    assert sorted(returned[8:] + pool.state_dict()["low"][:, 0, 0, 0].tolist()) == [*map(float, range(80))]


def test_pool_resumes_exactly(tmp_path):
    pool, generator = PairPool(9), rng()  # not a multiple of the batch: eight are kept
    for batch in range(5):
        pool.exchange(numbered(4 * batch, 4), generator)
    torch.save({"pool": pool.state_dict(), "rng": generator.get_state()}, tmp_path / "checkpoint")
    expected = [pool.exchange(numbered(100 + 4 * batch, 4), generator).low for batch in range(5)]
    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    pool, generator = PairPool(9), rng(99)
    pool.load_state_dict(saved["pool"])
    generator.set_state(saved["rng"])
    for batch, low in enumerate(expected):
        assert torch.equal(pool.exchange(numbered(100 + 4 * batch, 4), generator).low, low)
    assert len(pool) == 8


def test_batch_larger_than_the_pool_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        PairPool(2).exchange(numbered(0, 4), rng())


def test_bicubic_reduction_is_differentiable(high):
    crops = high.clone().requires_grad_()
    reduce_bicubic(crops, 4).sum().backward()
    assert float(crops.grad.sum()) == pytest.approx(4 * 3 * 24 * 24, rel=1e-4)
