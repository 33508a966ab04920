"""Discriminators: input sizes, logits, and the keys of public files."""

import pytest
import torch

from slidelift.models.networks.discriminators import DISCRIMINATORS


@pytest.fixture(params=DISCRIMINATORS)
def name(request) -> str:
    return request.param


@pytest.mark.parametrize(("height", "width"), [(64, 64), (80, 112), (128, 96)])
def test_accepts_multiples_of_16_from_64_pixels(name, height, width):
    discriminator = DISCRIMINATORS[name](features=8)
    logits = discriminator(torch.rand(2, 3, height, width))
    assert logits.shape == ((2, 1, height, width) if name == "unet" else (2, 1))


def test_accepts_grey_images(name):
    assert DISCRIMINATORS[name](channels=1, features=8)(torch.rand(2, 1, 64, 64)).shape[:2] == (2, 1)


def test_outputs_are_logits(name):
    discriminator = DISCRIMINATORS[name](features=8)
    last = [layer for layer in discriminator.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(-3)
    assert torch.equal(discriminator(torch.rand(1, 3, 64, 64)).unique(), torch.tensor([-3.0]))


def test_learns_to_distinguish_noise_from_flat_patches(name):
    rng = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        discriminator = DISCRIMINATORS[name](features=8)
    noise = torch.rand(4, 3, 64, 64, generator=rng)
    flat = noise.mean((2, 3), keepdim=True).expand_as(noise)
    optimiser = torch.optim.Adam(discriminator.parameters(), 2e-3)
    for _ in range(25):
        loss = (
            torch.nn.functional.softplus(-discriminator(noise)).mean()
            + torch.nn.functional.softplus(discriminator(flat)).mean()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert discriminator(noise).mean() > discriminator(flat).mean() + 0.5


class TestUNet:
    def test_keys_and_shapes_are_those_of_the_public_file(self):
        expected = {
            "conv0.weight": (64, 3, 3, 3),
            "conv0.bias": (64,),
            "conv9.weight": (1, 64, 3, 3),
            "conv9.bias": (1,),
        }
        kernels = {
            1: (128, 64, 4, 4), 2: (256, 128, 4, 4), 3: (512, 256, 4, 4), 4: (256, 512, 3, 3),
            5: (128, 256, 3, 3), 6: (64, 128, 3, 3), 7: (64, 64, 3, 3), 8: (64, 64, 3, 3),
        }  # fmt: skip
        for number, (outputs, inputs, height, width) in kernels.items():
            expected[f"conv{number}.weight_orig"] = (outputs, inputs, height, width)
            expected[f"conv{number}.weight_u"] = (outputs,)
            expected[f"conv{number}.weight_v"] = (inputs * height * width,)
        state = DISCRIMINATORS["unet"]().state_dict()
        assert {key: tuple(value.shape) for key, value in state.items()} == expected

    def test_inner_layers_have_a_largest_singular_value_of_one(self):
        torch.manual_seed(0)
        discriminator = DISCRIMINATORS["unet"](features=8)
        for _ in range(300):  # power iteration is slow where the two largest are close
            discriminator(torch.rand(1, 3, 16, 16))
        for number in range(1, 9):
            kernel = getattr(discriminator, f"conv{number}").weight.detach()
            assert float(torch.linalg.matrix_norm(kernel.flatten(1), 2)) == pytest.approx(1, abs=0.02)


def test_srgans_discriminator_has_the_layers_of_public_files():
    state = DISCRIMINATORS["srgan"]().state_dict()
    kernels = {key: tuple(value.shape) for key, value in state.items() if value.ndim == 4}
    assert kernels == {
        "net.0.weight": (64, 3, 3, 3), "net.2.weight": (64, 64, 3, 3), "net.5.weight": (128, 64, 3, 3),
        "net.8.weight": (128, 128, 3, 3), "net.11.weight": (256, 128, 3, 3), "net.14.weight": (256, 256, 3, 3),
        "net.17.weight": (512, 256, 3, 3), "net.20.weight": (512, 512, 3, 3), "net.24.weight": (1024, 512, 1, 1),
        "net.26.weight": (1, 1024, 1, 1),
    }  # fmt: skip


def test_sqes_discriminator_downsamples_in_every_layer():
    sides = []
    discriminator = DISCRIMINATORS["srgan-sqe"](features=8)
    for layer in discriminator.net:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, inputs, output: sides.append(output.shape[-1]))
    discriminator(torch.rand(2, 3, 64, 64))
    assert sides == [32, 16, 8, 4]
