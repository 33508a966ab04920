"""Network upscaler: devices, precision, memory and non-finite output."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slidelift.models.errors import (
    DeviceError,
    NonFiniteOutputError,
    OutOfMemoryError,
    UnknownModelError,
    UnsupportedScaleError,
    WeightsError,
)
from slidelift.models.inference import NetworkUpscaler, choose_device, choose_precision, is_out_of_memory
from slidelift.models.networks.rrdbnet import RRDBNet
from slidelift.models.networks.spec import Geometry
from slidelift.models.networks.table import NETWORKS
from slidelift.models.upscaler import load_upscaler

EXACT = Geometry(scale=2, halo=1, exact=True, fade=0)
INEXACT = Geometry(scale=2, halo=1, exact=False, fade=1)
CPU = torch.device("cpu")


class Repeat(nn.Module):
    """Repeats pixels; subclasses simulate errors."""

    def misbehave(self, x):
        return x

    def forward(self, x):
        return nn.functional.interpolate(self.misbehave(x), scale_factor=2, mode="nearest")


def upscaler(network, geometry=EXACT, precision="fp32", batch=1) -> NetworkUpscaler:
    return NetworkUpscaler(
        network, geometry, name="fake", fingerprint="0", device="cpu", precision=precision, batch=batch
    )


def repeated(patches):
    return patches.repeat(2, axis=1).repeat(2, axis=2)


class TestOutput:
    def test_all_grey_levels_are_preserved(self):
        levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
        assert np.array_equal(upscaler(Repeat())(levels), repeated(levels))

    def test_output_is_rounded_half_to_even_and_clipped(self):
        class Constant(Repeat):
            def misbehave(self, x):
                values = torch.tensor([0.5, 1.5, 2.5, -7.0, 254.5, 300.0]).div(255)
                return values.reshape(1, 1, 1, 6).expand(len(x), 3, 1, 6)

        out = upscaler(Constant())(np.zeros((1, 1, 6, 3), np.uint8))
        assert out[0, 0, ::2, 0].tolist() == [0, 2, 2, 0, 254, 255]

    def test_inexact_networks_return_unrounded_float32(self, patches):
        class Shift(Repeat):
            def misbehave(self, x):
                return x + 0.25 / 255

        out = upscaler(Shift(), INEXACT)(patches)
        assert out.dtype == np.float32
        assert np.abs(out - np.minimum(repeated(patches) + 0.25, 255)).max() < 1e-3

    @pytest.mark.parametrize(("height", "width"), [(8, 12), (5, 7), (1, 1), (2, 9)])
    def test_patches_are_mirrored_to_the_size_multiple(self, height, width):
        sizes = []

        class Watch(Repeat):
            def misbehave(self, x):
                sizes.append(x.shape[2:])
                return x

        geometry = Geometry(scale=2, halo=1, exact=True, fade=0, size_multiple=4)
        batch = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        assert np.array_equal(upscaler(Watch(), geometry)(batch), repeated(batch))
        assert all(side % 4 == 0 for size in sizes for side in size)

    def test_empty_batch_gives_an_empty_result(self):
        assert upscaler(Repeat())(np.zeros((0, 4, 5, 3), np.uint8)).shape == (0, 8, 10, 3)

    @pytest.mark.parametrize("batch", [1, 2, 3, 8])
    def test_cpu_output_does_not_depend_on_batching(self, tiny_network, patches, batch):
        network = tiny_network("srvgg-compact", noise=0.05, shift=None)
        geometry = Geometry(scale=4, halo=5, exact=True, fade=0)
        alone = np.concatenate([upscaler(network, geometry)(patch[None]) for patch in patches])
        assert np.array_equal(upscaler(network, geometry, batch=batch)(patches), alone)


class TestMemory:
    @pytest.fixture
    def patches(self):
        """Larger than patches that are computed as two copies."""
        return np.random.default_rng(3).integers(0, 256, (3, 132, 132, 3), np.uint8)

    @pytest.mark.parametrize(
        "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: not enough memory")]
    )
    def test_batch_is_halved_until_it_fits_with_an_incident(self, patches, error):
        class Narrow(Repeat):
            def misbehave(self, x):
                if len(x) > 1:
                    raise error
                return x

        model = upscaler(Narrow(), batch=4)
        assert np.array_equal(model(patches), repeated(patches))
        assert model.batch == 1
        assert [incident.partition(": ")[2] for incident in model.incidents] == [
            "batch of 4 halved to 2",
            "batch of 2 halved to 1",
        ]

    def test_patch_that_does_not_fit_alone_raises(self, patches):
        class Full(Repeat):
            def misbehave(self, x):
                raise torch.OutOfMemoryError("CUDA out of memory.")

        with pytest.raises(OutOfMemoryError, match="one patch does not fit"):
            upscaler(Full(), batch=2)(patches)

    def test_other_errors_are_not_treated_as_out_of_memory(self, patches):
        class Broken(Repeat):
            def misbehave(self, x):
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            upscaler(Broken(), batch=2)(patches)

    def test_out_of_memory_of_the_cpu_allocator_is_recognised(self):
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**55, dtype=torch.uint8)
        assert is_out_of_memory(caught.value)


class TestNonFinite:
    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_overflow_in_16_bits_is_computed_again_in_fp32(self, patches, precision):
        class Overflowing(Repeat):
            def misbehave(self, x):
                return x * float("inf") if torch.is_autocast_enabled("cpu") else x

        model = upscaler(Overflowing(), precision=precision, batch=2)
        assert np.array_equal(model(patches), repeated(patches))
        assert len(model.incidents) == 2
        assert "computed in fp32" in model.incidents[0]

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("batch", [1, 2, 3])
    def test_error_has_the_index_of_a_non_finite_patch(self, patches, precision, batch):
        class HatesOnePatch(Repeat):
            def misbehave(self, x):
                return torch.where(x.amax((1, 2, 3), keepdim=True) == 0, torch.nan, x)

        patches[2] = 0
        with pytest.raises(NonFiniteOutputError, match="patch 2") as caught:
            upscaler(HatesOnePatch(), precision=precision, batch=batch)(patches)
        assert caught.value.index == 2

    def test_infinite_weight_raises(self, tiny_network, patches):
        network = tiny_network("srvgg-compact")
        network.body[2].weight.data[0, 0, 1, 1] = float("inf")
        with pytest.raises(NonFiniteOutputError):
            upscaler(network, Geometry(scale=4, halo=5, exact=True, fade=0))(patches)


class TestPrecision:
    @pytest.mark.parametrize(
        ("avx512", "amx", "expected"), [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")]
    )
    def test_auto_is_bf16_only_on_cpus_with_bf16_arithmetic(self, monkeypatch, avx512, amx, expected):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        assert choose_precision("auto", CPU, {"bf16": 0.0}) == expected

    @pytest.mark.parametrize(("loss", "expected"), [({"bf16": 0.02}, "bf16"), ({"bf16": 0.021}, "fp32"), ({}, "fp32")])
    def test_auto_is_bf16_only_with_a_small_measured_loss(self, monkeypatch, loss, expected):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
        assert choose_precision("auto", CPU, loss) == expected

    def test_auto_is_fp16_on_cuda_unless_its_measured_loss_is_large(self):
        cuda = torch.device("cuda")
        assert choose_precision("auto", cuda) == "fp16"
        assert choose_precision("auto", cuda, {"fp16": 0.03}) == "fp32"
        assert choose_precision("fp32", cuda) == "fp32"
        assert choose_precision("bf16", CPU, {"bf16": 1.0}) == "bf16"
        with pytest.raises(ValueError, match="int8"):
            choose_precision("int8", CPU)

    def test_skip_connection_of_the_compact_network_stays_float32_in_bf16(self, tiny_network):
        levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
        network = tiny_network("srvgg-compact")
        for parameter in network.parameters():
            parameter.data.zero_()
        out = upscaler(network, Geometry(scale=4, halo=5, exact=True, fade=0), precision="bf16")(levels)
        assert np.array_equal(out[:, ::4, ::4], levels)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_bf16_body_stays_within_half_a_grey_level(self, tiny_network, name):
        patches = np.random.default_rng(0).integers(60, 200, (1, 16, 16, 3), np.uint8)
        network, spec = tiny_network(name), NETWORKS[name]
        geometry = spec.geometry({"scale": 4} | spec.hyperparameters(network.state_dict()))
        geometry = replace(geometry, exact=False, fade=1)
        fp32, bf16 = (upscaler(network, geometry, precision)(patches) for precision in ("fp32", "bf16"))
        assert bf16.dtype == np.float32
        assert np.abs(fp32 - bf16).mean() < 0.5

    def test_only_the_body_of_rrdbnet_runs_in_bf16(self):
        dtypes = {}
        network = RRDBNet(features=8, growth=4, blocks=1)
        for name, layer in network.named_modules():
            layer.register_forward_hook(lambda layer, inputs, output, name=name: dtypes.update({name: output.dtype}))
        upscaler(network, Geometry(4, 32, exact=False, fade=16), "bf16")(np.zeros((1, 8, 8, 3), np.uint8))
        for name in ("conv_first", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
            assert dtypes[name] == torch.float32, name
        for name in ("body.0.rdb1.conv1", "body.0.rdb3.conv5", "conv_body"):
            assert dtypes[name] == torch.bfloat16, name


class TestDoor:
    @pytest.fixture
    def file(self, tmp_path, tiny_network):
        save_file(tiny_network("srvgg-compact").state_dict(), tmp_path / "mine.safetensors")
        return str(tmp_path / "mine.safetensors")

    def test_file_of_weights_loads_as_an_upscaler(self, file, patches):
        model = load_upscaler(file, device="cpu")
        assert (model.scale, model.halo, model.exact, model.batch, model.device) == (4, 5, True, 1, "cpu")
        assert model(patches).shape == (3, 84, 104, 3)

    def test_interpolation_uses_its_default_or_the_requested_scale(self):
        assert load_upscaler("bicubic").scale == 4
        assert load_upscaler("lanczos", scale=2).scale == 2
        assert load_upscaler("nearest").fingerprint == "nearest-pillow"

    def test_unknown_name_scale_and_device_raise(self, file, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(UnknownModelError, match="compact-x4"):
            load_upscaler("sharpest")
        with pytest.raises(UnsupportedScaleError, match="by 4, not by 2"):
            load_upscaler(file, scale=2)
        with pytest.raises(DeviceError, match="cuda: not available"):
            load_upscaler(file, device="cuda")
        for device in ("gpu", "meta"):
            with pytest.raises(DeviceError, match="use auto, cpu, cuda"):
                choose_device(device)

    def test_untrained_weights_are_refused(self, tmp_path):
        save_file(RRDBNet(features=8, growth=4, blocks=1).state_dict(), tmp_path / "untrained.safetensors")
        with pytest.raises(WeightsError, match=r"untrained\.safetensors: changes a patch of grey"):
            load_upscaler(str(tmp_path / "untrained.safetensors"))
