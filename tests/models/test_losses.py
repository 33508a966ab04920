"""Losses against computed values and scikit-image."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from slidelift.models.errors import WeightsError
from slidelift.models.losses.adversarial import discriminator_loss, generator_loss
from slidelift.models.losses.manifold import Manifold
from slidelift.models.losses.perceptual import Perceptual, VGG19Features
from slidelift.models.losses.table import LOSSES
from slidelift.models.losses.weighted import WeightedSum

LOW = torch.zeros(2, 3, 4, 4)


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    """An image of smooth blobs and a noisy copy, (2, 3, 192, 180)."""
    rng = np.random.default_rng(4)
    truth = gaussian_filter(rng.random((2, 3, 192, 180)), (0, 0, 2, 2)) * 4 - 1.5
    noisy = truth + 0.08 * rng.standard_normal(truth.shape)
    return torch.from_numpy(noisy).clamp(0, 1).float(), torch.from_numpy(truth).clamp(0, 1).float()


@pytest.fixture
def small(pictures: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, truth and input of 64 x 60 px."""
    prediction, truth = (picture[..., :64, :60].contiguous() for picture in pictures)
    return prediction, truth, nn.functional.interpolate(truth, (16, 15), mode="bicubic", antialias=True)


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random tensors of VGG19 up to conv2_2 under torchvision's keys."""
    network = VGG19Features(("conv2_2",))
    rng = torch.Generator().manual_seed(0)
    state = {key: 0.1 * torch.randn(value.shape, generator=rng) for key, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    save_file(state, path)
    return path


def build(name: str, vgg_file: Path) -> Callable[..., Tensor]:
    if name == "vgg":
        return LOSSES[name](weights=vgg_file, layers={"conv1_2": 0.1, "conv2_2": 1.0})
    if name == "manifold":
        return LOSSES[name](encoder=nn.Conv2d(3, 4, 3, stride=2))
    if name == "ms_ssim":
        return LOSSES[name](scales=3)
    return LOSSES[name]()


def apart(residual: float) -> tuple[Tensor, Tensor]:
    return torch.full((2, 3, 16, 16), 0.25 + residual), torch.full((2, 3, 16, 16), 0.25)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("l1", {}, 0.5),
        ("mse", {}, 0.25),
        ("charbonnier", {"epsilon": 1.2}, 1.3),  # 5, 12, 13
        ("psnr", {"luma_share": 0.0}, 10 * math.log10(0.25)),
        ("psnr", {"luma_share": 1.0}, 20 * math.log10(0.5 * 219 / 255)),  # luma has 219 levels
        ("quasi_norm", {"q": 0.5, "epsilon": 0.0925}, 0.3425**0.25),
        ("quasi_norm", {"q": 2.0, "epsilon": 1e-9}, 0.25),
        ("quasi_norm", {"q": 1.0, "epsilon": 1.44}, 1.3),
    ],
)
def test_loss_of_a_constant_residual_follows_the_formula(name, parameters, expected):
    assert float(LOSSES[name](**parameters)(*apart(0.5), LOW)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_least_for_the_truth_and_has_a_gradient(name, small, vgg_file):
    prediction, truth, low = small
    loss = build(name, vgg_file)
    prediction.requires_grad_()
    value = loss(prediction, truth, low)
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(prediction.grad).all()
    assert prediction.grad.abs().max() > 0
    assert float(loss(truth, truth, low)) < float(value.detach())


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_has_a_finite_gradient(name, small, vgg_file):
    _, truth, low = small
    prediction = truth.clone().requires_grad_()
    build(name, vgg_file)(prediction, truth, low).backward()
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"vgg", "manifold"}))  # those have networks of their own
def test_bfloat16_predictions_are_compared_in_single_precision(name, small, vgg_file):
    prediction, truth, low = small
    assert build(name, vgg_file)(prediction.bfloat16(), truth, low).dtype == torch.float32


@pytest.mark.parametrize(("q", "epsilon"), [(0, 1e-5), (-1, 1e-5), (2.1, 1e-5), (0.5, 0)])
def test_quasi_norm_refuses_invalid_parameters(q, epsilon):
    with pytest.raises(ValueError, match="q must lie"):
        LOSSES["quasi_norm"](q=q, epsilon=epsilon)


def test_quasi_norm_below_one_has_smaller_gradients_at_outliers():
    residual = torch.tensor([0.05, 0.5]).reshape(1, 1, 1, 2).requires_grad_()
    LOSSES["quasi_norm"](q=0.5)(residual, torch.zeros(1, 1, 1, 2), LOW).backward()
    near, far = residual.grad.ravel().tolist()
    # d/dr (r^2 + e)^(1/4) is about r^(-1/2) / 2, of a mean over two
    assert near == pytest.approx(0.05**-0.5 / 4, rel=0.01)
    assert far == pytest.approx(0.5**-0.5 / 4, rel=0.01)


def test_ssim_equals_scikit_images_with_uniform_5x5_windows(pictures):
    prediction, truth = pictures
    expected = [
        structural_similarity(
            a.numpy().astype(float), b.numpy().astype(float), win_size=5, channel_axis=0, data_range=1,
            use_sample_covariance=False,
        )
        for a, b in zip(prediction, truth, strict=True)
    ]  # fmt: skip
    assert float(LOSSES["ssim"]()(prediction, truth, LOW)) == pytest.approx(1 - np.mean(expected), abs=1e-5)


def skimage_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    return structural_similarity(a, b, full=True, **options)[1][5:-5, 5:-5]


def test_ms_ssim_of_one_scale_equals_scikit_images_ssim(pictures):
    prediction, truth = (picture.double().numpy() for picture in pictures)
    expected = np.mean(
        [skimage_ssim(a, b).mean() for x, y in zip(prediction, truth, strict=True) for a, b in zip(x, y, strict=True)]
    )
    assert float(LOSSES["ms_ssim"](scales=1)(*pictures, LOW)) == pytest.approx(1 - expected, abs=1e-5)


def test_ms_ssim_is_the_product_of_scikit_images_terms(pictures):
    prediction, truth = (picture.double().numpy() for picture in pictures)
    shares = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
    values = []
    for a, b in zip(prediction.reshape(-1, 192, 180), truth.reshape(-1, 192, 180), strict=True):
        value = 1.0
        for scale, share in enumerate(shares):
            mean_a, mean_b = (gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5] for x in (a, b))
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            similarity = skimage_ssim(a, b)
            term = similarity if scale == 4 else similarity / luminance
            value *= term.mean() ** (share / sum(shares))
            a, b = (x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2] for x in (a, b))
            a, b = (x.reshape(len(x) // 2, 2, -1, 2).mean((1, 3)) for x in (a, b))
        values.append(value)
    assert float(LOSSES["ms_ssim"]()(*pictures, LOW)) == pytest.approx(1 - np.mean(values), abs=1e-5)


def test_ms_ssim_error_tells_the_required_size():
    with pytest.raises(ValueError, match="176 px a side, not 128"):
        LOSSES["ms_ssim"]()(torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128), LOW)
    with pytest.raises(ValueError, match="1 to 5 scales"):
        LOSSES["ms_ssim"](scales=6)


def test_ms_ssim_of_an_inverted_image_is_finite(pictures):
    truth = pictures[1]
    prediction = (1 - truth).requires_grad_()
    loss = LOSSES["ms_ssim"]()(prediction, truth, LOW)
    loss.backward()
    assert 0.5 < float(loss.detach()) <= 1
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("reduction", ["bicubic", "area"])
def test_consistency_loss_is_zero_if_the_reduction_equals_the_input(reduction):
    low = torch.full((1, 3, 8, 8), 0.4)
    prediction = torch.full((1, 3, 32, 32), 0.4)
    loss = LOSSES["consistency"](reduction=reduction)
    assert float(loss(prediction, prediction, low)) == pytest.approx(0, abs=1e-6)
    assert float(loss(prediction + 0.1, prediction, low)) == pytest.approx(0.1, abs=1e-5)


def test_area_consistency_depends_only_on_block_means():
    prediction = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(8, 8).expand(1, 3, 16, 16)
    loss = LOSSES["consistency"](reduction="area")
    assert float(loss(prediction, prediction, torch.full((1, 3, 8, 8), 0.5))) == 0


def test_consistency_refuses_an_unknown_reduction():
    with pytest.raises(ValueError, match="bicubic, area"):
        LOSSES["consistency"](reduction="lanczos")


def test_spectrum_loss_of_a_constant_residual_is_one_frequency():
    # orthonormal: a constant r on 16 x 16 has the zero frequency 16 r, of 16 * 9 kept
    assert float(LOSSES["fft"]()(*apart(0.5), LOW)) == pytest.approx(16 * 0.5 / (16 * 9), abs=1e-5)


ZERO = torch.zeros(2, 1, 3, 3)


def test_discriminator_loss_of_zero_logits():
    assert float(discriminator_loss("vanilla", ZERO, ZERO)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss("vanilla", ZERO)) == pytest.approx(math.log(2))
    assert float(discriminator_loss("relativistic", ZERO + 3, ZERO + 3)) == pytest.approx(math.log(2))
    assert float(generator_loss("relativistic", ZERO + 3, ZERO + 3)) == pytest.approx(math.log(2))
    assert float(discriminator_loss("hinge", ZERO, ZERO)) == 2
    assert float(generator_loss("hinge", ZERO)) == 0


def test_vanilla_is_cross_entropy():
    real, fake = torch.tensor([1.5, -0.5]), torch.tensor([0.3, 2.0])

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    expected = -sum(math.log(sigmoid(x)) for x in (1.5, -0.5)) / 2
    expected -= sum(math.log(1 - sigmoid(x)) for x in (0.3, 2.0)) / 2
    assert float(discriminator_loss("vanilla", real, fake)) == pytest.approx(expected)
    assert float(generator_loss("vanilla", fake)) == pytest.approx(-math.log(sigmoid(0.3) * sigmoid(2.0)) / 2)


def test_hinge_stops_at_the_margin():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])
    assert float(discriminator_loss("hinge", real, fake)) == pytest.approx((0 + 0.5) / 2 + (0 + 1.25) / 2)
    assert float(generator_loss("hinge", fake)) == pytest.approx(2.75 / 2)


def test_relativistic_loss_compares_with_the_mean_of_the_others():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])  # means 2 and -1

    def softplus(x):
        return math.log1p(math.exp(x))

    discriminator = (softplus(-2) + softplus(-4)) / 2 + (softplus(-2) + softplus(-4)) / 2
    generator = (softplus(2) + softplus(4)) / 2 + (softplus(2) + softplus(4)) / 2
    assert float(discriminator_loss("relativistic", real, fake)) == pytest.approx(discriminator / 2)
    assert float(generator_loss("relativistic", fake, real)) == pytest.approx(generator / 2)


def test_the_generators_loss_sends_no_gradient_through_real_images():
    real, fake = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    generator_loss("relativistic", fake, real).backward()
    assert real.grad is None
    assert (fake.grad < 0).all()


def test_adversarial_losses_refuse_missing_or_unknown_arguments():
    with pytest.raises(ValueError, match="real images too"):
        generator_loss("relativistic", ZERO)
    with pytest.raises(ValueError, match="wasserstein"):
        discriminator_loss("wasserstein", ZERO, ZERO)


def test_vgg_features_are_taken_before_the_activation():
    network = VGG19Features(("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"))
    assert list(network.names) == [2, 7, 16, 25, 34]  # torchvision's numbers of those convolutions
    assert isinstance(network.features[-1], nn.Conv2d)
    assert network.state_dict()["features.34.weight"].shape == (512, 512, 3, 3)
    features = network(torch.rand(1, 3, 32, 32))
    assert {name: tuple(value.shape[1:]) for name, value in features.items()} == {
        "conv1_2": (64, 32, 32), "conv2_2": (128, 16, 16), "conv3_4": (256, 8, 8), "conv4_4": (512, 4, 4),
        "conv5_4": (512, 2, 2),
    }  # fmt: skip
    assert all((value < 0).any() for value in features.values())


def test_vgg_normalises_its_input():
    network = VGG19Features(("conv1_1",))
    with torch.no_grad():
        network.features[0].weight.zero_()[:3, :, 1, 1] = torch.eye(3)
        network.features[0].bias.zero_()
        out = network(torch.tensor([0.714, 0.68, 0.181])[None, :, None, None].expand(1, 3, 4, 4))["conv1_1"]
    assert out[0, :3, 2, 2].tolist() == pytest.approx([1, 1, -1], abs=1e-5)


def test_error_without_vgg_names_the_required_file(tmp_path):
    with pytest.raises(WeightsError, match=r"no such file.*vgg19-dcbb9e9d\.pth"):
        Perceptual(tmp_path / "vgg19.pth")
    wrong = tmp_path / "wrong.pth"
    torch.save({"body.0.weight": torch.zeros(1)}, wrong)
    with pytest.raises(WeightsError, match=r"not VGG19's weights.*vgg19-dcbb9e9d\.pth"):
        Perceptual(wrong)


def test_vgg_reads_pth_and_safetensors(tmp_path, vgg_file, small):
    pth = tmp_path / "vgg.pth"
    torch.save(load_file(vgg_file) | {"classifier.0.weight": torch.zeros(2)}, pth)
    layers = {"conv2_2": 1.0}
    one, other = (Perceptual(path, layers)(*small) for path in (pth, vgg_file))
    assert torch.equal(one, other)


def test_vgg_layers_add_up_by_their_weights(vgg_file, small):
    both = Perceptual(vgg_file, {"conv1_2": 0.1, "conv2_2": 2.0})(*small)
    first, second = (Perceptual(vgg_file, {name: 1.0})(*small) for name in ("conv1_2", "conv2_2"))
    assert float(both) == pytest.approx(0.1 * float(first) + 2 * float(second), rel=1e-5)


def test_manifold_is_the_quasi_norm_of_codes_and_freezes_its_encoder():
    encoder = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        encoder.weight.fill_(2.0)
    loss = Manifold(encoder, q=1.0, epsilon=6.25)
    # codes differ by 2 * 3 * 0.5 = 3: sqrt(9 + 6.25)
    assert float(loss(*apart(0.5), LOW)) == pytest.approx(15.25**0.5, rel=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_weighted_sum_adds_and_reports_unweighted_parts():
    total = WeightedSum({"l1": (2.0, LOSSES["l1"]()), "mse": (0.5, LOSSES["mse"]()), "fft": (0.0, LOSSES["fft"]())})
    prediction, truth = apart(0.5)
    value, parts = total(prediction.requires_grad_(), truth, LOW)
    assert float(value.detach()) == pytest.approx(2 * 0.5 + 0.5 * 0.25)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx({"l1": 0.5, "mse": 0.25})
    assert value.requires_grad
    assert not any(part.requires_grad for part in parts.values())


def test_weighted_sum_without_losses_is_refused():
    with pytest.raises(ValueError, match="no loss"):
        WeightedSum({"l1": (0.0, LOSSES["l1"]())})
