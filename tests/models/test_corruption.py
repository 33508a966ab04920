"""Corruption of training examples as for SRGAN_SQE: share and kinds."""

import pytest
import torch

from slidelift.models.data.corrupt import BLURS, CONTRASTS, NOISES, corrupt


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def high() -> torch.Tensor:
    """Mid-grey noise, (40, 3, 48, 48), far enough from black and white to avoid clamping."""
    return 0.4 + 0.2 * torch.rand(40, 3, 48, 48, generator=rng(9))


def changed(high: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return (high != out).flatten(1).any(1)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 0.5, 1.0])
def test_exact_fraction_is_corrupted(fraction, high):
    before = high.clone()
    out = corrupt(high, fraction, rng())
    assert int(changed(high, out).sum()) == round(fraction * 40)
    assert torch.equal(high, before)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_fraction_of_a_crop_is_exact_on_average(high):
    counts = [int(changed(high[:4], corrupt(high[:4], 0.3, rng(seed), ["contrast"])).sum()) for seed in range(400)]
    assert set(counts) == {1, 2}
    assert sum(counts) / 400 == pytest.approx(1.2, abs=0.06)


def test_noise_contrast_and_blur_have_the_documented_strengths(high):
    noise = (corrupt(high, 1.0, rng(), ["noise"]) - high).flatten(1).std(1) * 255
    assert NOISES[0] * 0.95 < float(noise.min()) < float(noise.max()) < NOISES[1] * 1.05
    pale = corrupt(high, 1.0, rng(), ["contrast"])
    factor = pale.std((2, 3)) / high.std((2, 3))
    assert CONTRASTS[0] - 0.01 < float(factor.min()) < float(factor.max()) < CONTRASTS[1] + 0.01
    assert torch.allclose(pale.mean((2, 3)), high.mean((2, 3)), atol=1e-4)
    # white noise under a Gaussian of sigma s keeps 1 / (2 s sqrt(pi)) of its deviation
    left = (corrupt(high, 1.0, rng(), ["blur"]).std((2, 3)) / high.std((2, 3))).mean(1)
    assert 0.2821 / BLURS[1] * 0.7 < float(left.min()) < float(left.max()) < 0.2821 / BLURS[0] * 1.1


def test_corruption_depends_only_on_the_generators_state(high):
    assert torch.equal(corrupt(high, 0.5, rng(3)), corrupt(high, 0.5, rng(3)))
    assert not torch.equal(corrupt(high, 0.5, rng(3)), corrupt(high, 0.5, rng(4)))


def test_unknown_kinds_and_invalid_fractions_are_refused(high):
    with pytest.raises(ValueError, match="tearing"):
        corrupt(high, 0.5, rng(), ["tearing"])
    with pytest.raises(ValueError, match="available: noise, blur, contrast"):
        corrupt(high, 0.5, rng(), [])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        corrupt(high, 1.5, rng())
