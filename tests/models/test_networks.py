"""Contract of all networks of the table, and public keys, sizes and conventions of each architecture."""

import re
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from torch import Tensor, nn

from slidelift.models.networks.autoencoder import Autoencoder
from slidelift.models.networks.blocks import enlarge_bicubic, to_luma_and_chroma, to_rgb
from slidelift.models.networks.edsr import EDSR
from slidelift.models.networks.table import NETWORKS
from slidelift.models.zoo.weights import load_weights, save_weights

ONE_PLANE = [name for name in NETWORKS if name not in ("edsr", "rcan")]
"""EDSR and RCAN subtract an RGB mean, so they have no luma version."""


def both(*layers: str) -> set[str]:
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def normalised(*layers: str) -> set[str]:
    return both(*layers) | {
        f"{one}.{p}" for one in layers for p in ("running_mean", "running_var", "num_batches_tracked")
    }


def prelus(*layers: str) -> set[str]:
    return {f"{layer}.weight" for layer in layers}


PUBLIC_KEYS = {
    "srvgg-compact": both(*(f"body.{n}" for n in (0, 2, 4, 6, 8))) | prelus(*(f"body.{n}" for n in (1, 3, 5, 7))),
    "rrdbnet": both("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
    | both(*(f"body.0.rdb{d}.conv{c}" for d in (1, 2, 3) for c in (1, 2, 3, 4, 5))),
    "srcnn": both("conv1", "conv2", "conv3"),
    "fsrcnn": both("first_part.0", "mid_part.0", "mid_part.2", "mid_part.4", "mid_part.6", "last_part")
    | prelus("first_part.1", "mid_part.1", "mid_part.3", "mid_part.5", "mid_part.7"),
    "vdsr": {"input.weight", "output.weight", *(f"residual_layer.{n}.conv.weight" for n in range(3))},
    "espcn": both("first_part.0", "first_part.2", "last_part.0"),
    "srresnet": both("block1.0", "block2.conv1", "block2.conv2", "block3.conv1", "block3.conv2", "block4.0")
    | both("block5.0.conv", "block5.1")
    | prelus("block1.1", "block2.prelu", "block3.prelu", "block5.0.prelu")
    | normalised("block2.bn1", "block2.bn2", "block3.bn1", "block3.bn2", "block4.1"),
    "msrresnet": both("conv_first", "upconv1", "upconv2", "conv_hr", "conv_last")
    | both("body.0.conv1", "body.0.conv2", "body.1.conv1", "body.1.conv2"),
    "edsr": both("sub_mean", "head.0", "body.0.body.0", "body.0.body.2", "body.1.body.0", "body.1.body.2", "body.2")
    | both("tail.0.0", "tail.0.2", "tail.1", "add_mean"),
    "rcan": both("sub_mean", "head.0", "body.2", "tail.0.0", "tail.0.2", "tail.1", "add_mean")
    | both("body.0.body.2", "body.1.body.2")
    | both(*(f"body.{g}.body.{b}.body.{n}" for g, b, n in product((0, 1), (0, 1), (0, 2))))
    | both(*(f"body.{g}.body.{b}.body.3.conv_du.{n}" for g, b, n in product((0, 1), (0, 1), (0, 2)))),
}

FULL_SIZE = {
    ("srvgg-compact", ()): 621_424,
    ("rrdbnet", ()): 16_697_987,
    ("srcnn", ()): 57_281,
    ("fsrcnn", ()): 12_809,
    ("vdsr", ()): 664_704,
    ("espcn", ()): 24_752,
    ("srresnet", ()): 1_549_462,
    ("msrresnet", ()): 1_517_571,
    ("edsr", ()): 1_517_571,
    ("edsr", (("features", 256), ("blocks", 32))): 43_089_923,
    ("rcan", ()): 15_592_355,
}


@pytest.fixture(params=NETWORKS)
def name(request) -> str:
    return request.param


def image(height: int = 9, width: int = 12, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def smooth(count: int, side: int, rng: torch.Generator) -> Tensor:
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=rng)
    return nn.functional.interpolate(coarse, size=side, mode="bilinear")


def loaded(path, network, name):
    """Save a network's tensors to a file and load it."""
    scale = None if "scale" in NETWORKS[name].hyperparameters(network.state_dict()) else network.scale
    return load_weights(path, scale=scale)


class TestContract:
    def test_output_size_follows_the_scale(self, name, tiny_network):
        for scale in NETWORKS[name].scales:
            network = tiny_network(name, shift=None, scale=scale)
            with torch.inference_mode():
                assert network(image(8, 12)).shape == (2, 3, 8 * scale, 12 * scale), scale

    def test_hyperparameters_are_inferred_from_weights_of_every_scale(self, name, tiny_network):
        spec = NETWORKS[name]
        for scale in spec.scales:
            state = tiny_network(name, shift=None, scale=scale).state_dict()
            parameters = {"scale": scale} | spec.hyperparameters(spec.canonical(state))
            assert parameters["scale"] == scale
            again = spec.build(**parameters).state_dict()
            assert {key: value.shape for key, value in again.items()} == {k: v.shape for k, v in state.items()}

    def test_weights_are_recognised_only_by_their_architecture(self, name, tiny_network):
        state = tiny_network(name, shift=None).state_dict()
        assert [spec.name for spec in NETWORKS.values() if spec.recognise(state)] == [name]

    def test_keys_are_those_of_public_files(self, name, tiny_network):
        assert tiny_network(name, shift=None).state_dict().keys() == PUBLIC_KEYS[name]

    def test_saved_and_loaded_weights_give_the_same_output(self, name, tiny_network, tmp_path):
        network, spec = tiny_network(name), NETWORKS[name]
        state = network.state_dict()
        hyperparameters = {"scale": 4} | spec.hyperparameters(state)
        save_weights(tmp_path / "a.safetensors", spec, hyperparameters, state, {}, half=False)
        weights = load_weights(tmp_path / "a.safetensors")
        assert weights.hyperparameters == hyperparameters
        with torch.inference_mode():
            assert torch.equal(weights.network(image()), network(image()))

    def test_halved_weights_stay_within_a_grey_level(self, name, tiny_network, tmp_path):
        network, spec = tiny_network(name), NETWORKS[name]
        state = network.state_dict()
        save_weights(tmp_path / "a.safetensors", spec, {"scale": 4} | spec.hyperparameters(state), state, {})
        with torch.inference_mode():
            changed = load_weights(tmp_path / "a.safetensors").network(image()) - network(image())
        assert changed.abs().mean() * 255 < 1

    def test_checkpoint_of_ema_weights_loads(self, name, tiny_network, tmp_path):
        network = tiny_network(name)
        torch.save({"params_ema": network.state_dict()}, tmp_path / "a.pth")
        with torch.inference_mode():
            assert torch.equal(loaded(tmp_path / "a.pth", network, name).network(image()), network(image()))

    def test_network_trains_from_its_initialisation(self, name, tiny_network):
        network = tiny_network(name, noise=0.0, shift=None, scale=2).train()
        blocks = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(2))
        high = nn.functional.interpolate(blocks, scale_factor=4)[:, :, 1:33, 1:33]
        low = nn.functional.avg_pool2d(high, 2)
        optimiser = torch.optim.Adam(network.parameters(), 5e-3)
        losses = []
        for _ in range(40):
            loss = (network(low) - high).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0]

    def test_full_size_network_has_the_papers_number_of_parameters(self, name):
        for (family, hyperparameters), parameters in FULL_SIZE.items():
            if family == name:
                network = NETWORKS[name].build(**dict(hyperparameters))
                assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def make_positive(network: nn.Module) -> nn.Module:
    """Set weights that never cancel or vanish, so that a gradient is zero only without a connection."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight.fill_(1 / layer.weight[0].numel())
    return network


class TestHalo:
    CASES = [(name, {}) for name in NETWORKS if name not in ("rrdbnet", "rcan")] + [
        ("srvgg-compact", {"convolutions": 6}),
        ("srcnn", {"kernel": 1}),
        ("vdsr", {"layers": 9}),
        ("fsrcnn", {"convolutions": 1}),
        ("edsr", {"blocks": 4}),
        ("msrresnet", {"blocks": 3}),
    ]

    @pytest.mark.parametrize(("name", "depth"), CASES, ids=str)
    @pytest.mark.parametrize("scale", [2, 3, 4])
    def test_halo_is_exactly_the_receptive_radius(self, tiny_network, name, depth, scale):
        network = make_positive(tiny_network(name, noise=0.0, shift=None, scale=scale, **depth))
        spec = NETWORKS[name]
        halo = spec.geometry({"scale": scale} | spec.hyperparameters(network.state_dict())).halo
        centre = halo + 3
        x = torch.full((1, 3, 2 * centre + 1, 2 * centre + 1), 0.5, requires_grad=True)
        core = network(x)[:, :, centre * scale : (centre + 1) * scale, centre * scale : (centre + 1) * scale]
        core.sum().backward()
        rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        assert max(centre - int(rows[0]), int(rows[-1]) - centre) == halo

    @pytest.mark.parametrize(
        ("name", "hyperparameters", "halo"),
        [
            ("srresnet", {"blocks": 16, "scale": 4}, 40),
            ("srresnet", {"blocks": 5, "scale": 4}, 18),
            ("edsr", {"blocks": 16, "scale": 4}, 36),
            ("espcn", {"scale": 4}, 4),
            ("srvgg-compact", {"convolutions": 32, "scale": 4}, 34),
        ],
    )
    def test_full_size_networks_have_the_expected_halo(self, name, hyperparameters, halo):
        assert NETWORKS[name].geometry(hyperparameters).halo == halo

    def test_networks_with_global_pooling_are_not_exact(self, tiny_network):
        network = tiny_network("rcan", shift=None)
        x = image(64, 64, 1)
        with torch.inference_mode():
            whole, part = network(x), network(x[:, :, :48])
        assert not torch.equal(whole[:, :, :16], part[:, :, :16])
        assert not NETWORKS["rcan"].geometry({"scale": 4}).exact


class TestOnePlane:
    @pytest.mark.parametrize("name", ONE_PLANE)
    def test_grey_stays_exactly_grey(self, tiny_network, name):
        network = tiny_network(name, shift=None, channels=1)
        with torch.inference_mode():
            out = network(image()[:, :1].expand(-1, 3, -1, -1))
        assert torch.equal(out[:, 0], out[:, 1])
        assert torch.equal(out[:, 0], out[:, 2])

    @pytest.mark.parametrize("name", ONE_PLANE)
    def test_number_of_channels_is_inferred_from_the_weights(self, tiny_network, tmp_path, name):
        network = tiny_network(name, channels=1)
        torch.save(network.state_dict(), tmp_path / "luma.pth")
        weights = loaded(tmp_path / "luma.pth", network, name)
        assert weights.hyperparameters["channels"] == 1
        with torch.inference_mode():
            assert torch.equal(weights.network(image()), network(image()))

    def test_luma_equals_scikit_images(self):
        pixels = image(20, 20, 1)
        luma, _ = to_luma_and_chroma(pixels)
        expected = rgb2ycbcr(pixels[0].permute(1, 2, 0).numpy())[..., 0]
        assert np.abs(luma[0, 0].numpy() * 255 - expected).max() < 0.01

    def test_colour_conversion_is_inverted(self):
        assert (to_rgb(*to_luma_and_chroma(image())) - image()).abs().max() < 1e-6


class TestBicubic:
    @pytest.mark.parametrize("scale", [1, 2, 3, 4])
    def test_bicubic_equals_pillows_away_from_the_border(self, scale):
        pixels = image(20, 24, 1)
        ours = enlarge_bicubic(pixels, scale)[0, 0].numpy()
        pillows = Image.fromarray(pixels[0, 0].numpy()).resize((24 * scale, 20 * scale), Image.Resampling.BICUBIC)
        inner = slice(3 * scale, -3 * scale)
        assert np.abs(ours - np.asarray(pillows))[inner, inner].max() < 1e-5

    @pytest.mark.parametrize("scale", [2, 3, 4])
    @pytest.mark.parametrize("left", [1, 5, 8])
    def test_bicubic_of_a_tile_equals_that_of_the_whole(self, scale, left):
        pixels = image(40, 61, 1)
        whole = enlarge_bicubic(pixels, scale)[..., (left + 2) * scale : (left + 19) * scale]
        tile = enlarge_bicubic(pixels[..., left : left + 21], scale)[..., 2 * scale : -2 * scale]
        assert torch.equal(whole, tile)


def as_basicsr_edsr(key: str) -> str:
    key = re.sub(r"^body\.(\d+)\.body\.0\.", r"body.\1.conv1.", key)
    key = re.sub(r"^body\.(\d+)\.body\.2\.", r"body.\1.conv2.", key)
    ends = {"head.0.": "conv_first.", "body.2.": "conv_after_body.", "tail.0.": "upsample.", "tail.1.": "conv_last."}
    return next((new + key.removeprefix(old) for old, new in ends.items() if key.startswith(old)), key)


def as_basicsr_rcan(key: str) -> str:
    attention = {"0": "1", "2": "3"}
    key = re.sub(
        r"^body\.(\d)\.body\.(\d)\.body\.3\.conv_du\.(\d)\.",
        lambda m: f"body.{m[1]}.residual_group.{m[2]}.rcab.3.attention.{attention[m[3]]}.",
        key,
    )
    key = re.sub(r"^body\.(\d)\.body\.(\d)\.body\.(\d)\.", r"body.\1.residual_group.\2.rcab.\3.", key)
    key = re.sub(r"^body\.(\d)\.body\.2\.", r"body.\1.conv.", key)
    ends = {"head.0.": "conv_first.", "body.2.": "conv_after_body.", "tail.0.": "upsample.", "tail.1.": "conv_last."}
    return next((new + key.removeprefix(old) for old, new in ends.items() if key.startswith(old)), key)


class TestDialects:
    @pytest.mark.parametrize(
        ("name", "rename", "sign"),
        [
            ("edsr", as_basicsr_edsr, {"body.1.conv2.bias", "conv_after_body.weight", "upsample.2.weight"}),
            ("rcan", as_basicsr_rcan, {"body.1.residual_group.0.rcab.3.attention.3.bias", "body.0.conv.weight"}),
        ],
    )
    def test_basicsrs_files_load(self, tiny_network, tmp_path, name, rename, sign):
        network = tiny_network(name)
        state = {rename(key): value for key, value in network.state_dict().items() if "_mean" not in key}
        assert sign <= state.keys()
        torch.save({"params": state}, tmp_path / "basicsr.pth")
        weights = load_weights(tmp_path / "basicsr.pth")
        assert weights.spec.name == name
        with torch.inference_mode():
            assert torch.equal(weights.network(image()), network(image()))

    def test_vdsrs_flat_list_loads(self, tiny_network, tmp_path):
        network = tiny_network("vdsr")
        layers = ["input.weight", *(f"residual_layer.{n}.conv.weight" for n in range(3)), "output.weight"]
        state = {f"features.{2 * n}.weight": network.state_dict()[layer] for n, layer in enumerate(layers)}
        torch.save({"model": state}, tmp_path / "flat.pth")
        with torch.inference_mode():
            assert torch.equal(load_weights(tmp_path / "flat.pth", scale=4).network(image()), network(image()))

    def test_normalisation_without_counters_loads(self, tiny_network, tmp_path):
        network = tiny_network("srresnet")
        state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
        torch.save(state, tmp_path / "netG_epoch_4_100.pth")
        with torch.inference_mode():
            assert torch.equal(load_weights(tmp_path / "netG_epoch_4_100.pth").network(image()), network(image()))

    @pytest.mark.parametrize(("scale", "ends"), [(1, (2, 4)), (2, (5, 7)), (4, (8, 10)), (8, (11, 13))])
    def test_esrgans_of_every_scale_load(self, tiny_network, tmp_path, scale, ends):
        network = tiny_network("rrdbnet", scale=scale, fold=1)
        names = {"conv_first": "model.0", "conv_body": "model.1.sub.1"}
        names |= {"conv_hr": f"model.{ends[0]}", "conv_last": f"model.{ends[1]}"}
        names |= {f"conv_up{number}": f"model.{3 * number}" for number in (1, 2, 3)}
        state = {}
        for key, value in network.state_dict().items():
            layer, _, part = key.rpartition(".")
            old = re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0", layer)
            state[f"{names.get(layer, old)}.{part}"] = value
        torch.save(state, tmp_path / "old.pth")
        weights = load_weights(tmp_path / "old.pth")
        assert weights.geometry.scale == scale
        assert weights.geometry.size_multiple == 1
        with torch.inference_mode():
            assert torch.equal(weights.network(image()), network(image()))

    def test_huge_layer_number_is_refused(self, tmp_path):
        torch.save({f"model.{10**15}.weight": torch.zeros(3, 8, 3, 3)}, tmp_path / "far.pth")
        assert not any(spec.recognise(torch.load(tmp_path / "far.pth")) for spec in NETWORKS.values())


class TestEDSR:
    def test_networks_with_256_features_have_residual_scaling(self):
        assert [block.damping for block in EDSR(features=256, blocks=2).body[:2]] == [0.1, 0.1]
        assert EDSR(features=64, blocks=1).body[0].damping == 1

    def test_mean_shift_is_no_parameter(self):
        assert not any("mean" in key for key, _ in EDSR(8, 1).named_parameters())


class TestFSRCNN:
    @pytest.mark.parametrize("scale", [2, 3, 4])
    def test_tail_equals_torchs_transposed_convolution(self, tiny_network, scale):
        network = tiny_network("fsrcnn", noise=0.1, shift=None, scale=scale)
        x = torch.rand(1, 56, 7, 9, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            assert (network.deconvolve(x) - network.last_part(x)).abs().max() < 1e-5


class TestAutoencoder:
    def test_code_has_a_quarter_of_each_side(self):
        autoencoder = Autoencoder(features=8)
        x = image(32, 48)
        assert autoencoder.encoder(x).shape == (2, 16, 8, 12)
        assert autoencoder(x).shape == x.shape

    def test_encoder_and_decoder_mirror_each_other(self):
        autoencoder = Autoencoder(features=8)
        kinds = {nn.ConvTranspose2d: nn.Conv2d}
        names = [[kinds.get(type(layer), type(layer)) for layer in half if not isinstance(layer, nn.ReLU)]
                 for half in (autoencoder.encoder, autoencoder.decoder)]  # fmt: skip
        assert names[0] == names[1][::-1]

    def test_autoencoder_learns_to_reconstruct_patches(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            autoencoder = Autoencoder(features=8)
        x = smooth(8, 32, torch.Generator().manual_seed(3))
        optimiser = torch.optim.Adam(autoencoder.parameters(), 3e-3)
        losses = []
        for _ in range(60):
            loss = (autoencoder(x) - x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]
