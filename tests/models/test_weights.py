"""Loading of weights: public checkpoints, wrappers, errors, self-test and metadata."""

import hashlib
import json
import os
import pickle
import re
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import slidelift.models.zoo.weights
from slidelift.models.errors import UntrainedWeightsError, WeightsError
from slidelift.models.networks.rrdbnet import RRDBNet
from slidelift.models.networks.srvgg_compact import SRVGGNetCompact
from slidelift.models.networks.table import NETWORKS
from slidelift.models.upscaler import OpenedModel, load_upscaler
from slidelift.models.zoo.catalog import catalog, damaged_cards, find, model_catalog, weights_paths
from slidelift.models.zoo.imports import import_model
from slidelift.models.zoo.weights import load_weights, save_weights


def realesrgan_x4plus_keys() -> set[str]:
    """The 702 keys of the public file."""
    layers = ["conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    layers += [f"body.{n}.rdb{d}.conv{c}" for n in range(23) for d in (1, 2, 3) for c in (1, 2, 3, 4, 5)]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def as_old_esrgan(key: str, blocks: int) -> str:
    """Keys of ESRGAN's first release, with numbered layers."""
    ends = {
        "conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}", "conv_up1": "model.3",
        "conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10",
    }  # fmt: skip
    layer, _, part = key.rpartition(".")
    if layer in ends:
        return f"{ends[layer]}.{part}"
    return re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0", layer) + f".{part}"


def as_bsrgan(key: str, blocks: int) -> str:
    """Keys of BSRGAN, RealSR and ESRGAN's second release."""
    ends = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
    layer, _, part = key.rpartition(".")
    layer = ends.get(layer, layer)
    return re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"RRDB_trunk.\1.RDB\2.conv\3", layer) + f".{part}"


def assert_loads_as(path, network):
    """Assert that the file's upscaler gives the network's output."""
    upscaler = load_upscaler(str(path), device="cpu", precision="fp32")
    halo = upscaler.halo if upscaler.exact else 0
    image = np.random.default_rng(1).integers(60, 200, (1, 2 * halo + 12, 2 * halo + 16, 3), np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255)
    expected = expected.permute(0, 2, 3, 1).mul(255).clamp(0, 255).numpy()
    out = upscaler(image)
    assert out.shape == expected.shape
    kept = slice(halo * upscaler.scale, -halo * upscaler.scale or None)
    off = float(np.abs(out.astype(np.float64) - expected)[:, kept, kept].max())
    assert off <= (0.501 if out.dtype == np.uint8 else 1e-2)


def has_scale(name: str) -> bool:
    """Whether an architecture's weights tell their scale."""
    return "scale" in NETWORKS[name].hyperparameters(NETWORKS[name].build().state_dict())


class TestPublicCheckpoints:
    def test_full_size_rrdbnet_has_the_keys_of_public_files(self):
        state = RRDBNet().state_dict()
        assert state.keys() == realesrgan_x4plus_keys()
        assert state["body.22.rdb3.conv5.weight"].shape == (64, 192, 3, 3)
        assert state["conv_last.weight"].shape == (3, 64, 3, 3)

    def test_realesrgan_x4plus_loads(self, tmp_path, tiny_network):
        network = tiny_network("rrdbnet", blocks=2)
        path = tmp_path / "RealESRGAN_x4plus.pth"
        torch.save({"params_ema": network.state_dict()}, path)
        assert_loads_as(path, network)

    @pytest.mark.parametrize(("scale", "channels"), [(2, 12), (1, 48)])
    def test_realesrgan_x2plus_and_x1_load(self, tmp_path, tiny_network, scale, channels):
        network = tiny_network("rrdbnet", scale=scale)
        assert network.conv_first.weight.shape[1] == channels
        path = tmp_path / f"RealESRGAN_x{scale}plus.pth"
        torch.save({"params_ema": network.state_dict(), "params": {}}, path)
        assert_loads_as(path, network)
        assert load_upscaler(str(path)).scale == scale

    def test_realesr_general_x4v3_loads_at_its_full_size(self, tmp_path, tiny_network):
        network = tiny_network("srvgg-compact", noise=0.005, features=64, convolutions=32)
        assert list(network.state_dict())[-1] == "body.66.bias"
        path = tmp_path / "realesr-general-x4v3.pth"
        torch.save({"params": network.state_dict()}, path)
        assert_loads_as(path, network)
        assert load_upscaler(str(path)).halo == 34

    @pytest.mark.parametrize("dialect", [as_old_esrgan, as_bsrgan])
    def test_older_esrgan_dialects_load(self, tmp_path, tiny_network, dialect):
        network = tiny_network("rrdbnet", blocks=2)
        path = tmp_path / "old.pth"
        torch.save({dialect(key, 2): value for key, value in network.state_dict().items()}, path)
        assert_loads_as(path, network)

    def test_parameters_load_as_tensors_do(self, tmp_path, tiny_network):
        network = tiny_network("srvgg-compact")
        torch.save(dict(network.named_parameters()), tmp_path / "parameters.pth")
        assert_loads_as(tmp_path / "parameters.pth", network)

    def test_float16_is_widened(self, tmp_path, tiny_network):
        network = tiny_network("srvgg-compact").half()
        save_file(network.state_dict(), tmp_path / "half.safetensors")
        weights = load_weights(tmp_path / "half.safetensors")
        assert {tensor.dtype for tensor in weights.network.state_dict().values()} == {torch.float32}
        assert_loads_as(tmp_path / "half.safetensors", network.float())


WRAPPERS = [
    "params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net", "ema", "generator",
    "generator_ema", "netG", "module",
]  # fmt: skip
PREFIXES = [
    "", "generator.", "model.", "module.", "netG.", "_orig_mod.", "generator_ema.", "params_ema.",
    "module.generator.", "module.model.", "model.generator.", "generator.model.module.", "module._orig_mod.",
]  # fmt: skip


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


class TestWrappers:
    """Wrappers and prefixes of training code are removed, and nothing else."""

    @pytest.fixture
    def network(self, tiny_network):
        return tiny_network("rrdbnet")

    @pytest.fixture
    def state(self, network):
        return network.state_dict()

    @pytest.fixture
    def other(self, tiny_network):
        """State dict of the same network with other weights."""
        return tiny_network("rrdbnet", noise=0.03).state_dict()

    @pytest.fixture
    def assert_is_found(self, tmp_path, network):
        """Assert that the network loads from the file's content with all its weights."""

        def check(content):
            torch.save(content, tmp_path / "wrapped.pth")
            loaded = load_weights(tmp_path / "wrapped.pth", self_test=False).network.state_dict()
            expected = network.state_dict()
            assert loaded.keys() == expected.keys()
            assert all(torch.equal(loaded[key], expected[key]) for key in expected)

        return check

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_wrapper_and_prefix_are_removed(self, assert_is_found, state, wrapper, prefix):
        assert_is_found({wrapper: prefixed(prefix, state)})

    @pytest.mark.parametrize("prefix", PREFIXES)
    def test_prefix_without_wrapper_is_removed(self, assert_is_found, state, prefix):
        assert_is_found(prefixed(prefix, state))

    @pytest.mark.parametrize(
        "wrappers",
        [
            ("state_dict", "params_ema"), ("model", "generator"), ("state_dict", "generator"), ("model", "state_dict"),
            ("params", "model_state_dict", "netG"), ("generator", "state_dict", "params_ema"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_nested_wrappers_are_removed(self, assert_is_found, state, wrappers, prefix):
        content = prefixed(prefix, state)
        for wrapper in reversed(wrappers):
            content = {wrapper: content}
        assert_is_found(content)

    @pytest.mark.parametrize("prefix", ["", "model.", "module.", "generator.", "netG.", "module.generator."])
    @pytest.mark.parametrize("wrapper", [None, "params_ema", "model", "state_dict"])
    @pytest.mark.parametrize("dialect", [as_old_esrgan, as_bsrgan])
    def test_keys_of_older_dialects_that_look_like_prefixes_are_kept(
        self, assert_is_found, state, dialect, wrapper, prefix
    ):
        old = prefixed(prefix, {dialect(key, 1): value for key, value in state.items()})
        assert any(key.startswith(prefix + "model.0.") for key in old) == (dialect is as_old_esrgan)
        assert_is_found(old if wrapper is None else {wrapper: old})

    def test_wrapped_network_gives_the_same_output(self, tmp_path, network, state):
        torch.save({"state_dict": {"params_ema": prefixed("module.generator.", state)}}, tmp_path / "wrapped.pth")
        assert_loads_as(tmp_path / "wrapped.pth", network)

    def test_safetensors_with_a_prefix_load(self, tmp_path, network, state):
        save_file(prefixed("generator.", state), tmp_path / "prefixed.safetensors")
        assert_loads_as(tmp_path / "prefixed.safetensors", network)

    @pytest.mark.parametrize(
        ("averaged", "last"),
        [("params_ema", "params"), ("params-ema", "params"), ("ema", "model"), ("generator_ema", "generator")],
    )
    def test_ema_weights_are_preferred(self, assert_is_found, state, other, averaged, last):
        assert_is_found({last: other, averaged: state})
        assert_is_found({averaged: state, last: other})
        assert_is_found({"state_dict": {last: other, averaged: state}, "epoch": 3})
        assert_is_found(prefixed(f"{last}.", other) | prefixed(f"{averaged}.", state))

    @pytest.mark.parametrize("nothing", [{}, None, 0.999])
    def test_empty_ema_is_ignored(self, assert_is_found, state, nothing):
        assert_is_found({"params_ema": nothing, "params": state})

    def test_one_dict_in_two_places_loads(self, assert_is_found, state):
        assert_is_found({"params_ema": state, "params": state})

    @pytest.mark.parametrize("wrapper", ["params_ema", "model", "generator"])
    def test_training_checkpoint_loads(self, assert_is_found, network, state, wrapper):
        discriminator = torch.nn.Conv2d(3, 4, 3)
        optimiser = torch.optim.Adam(network.parameters())
        sum(parameter.sum() for parameter in network.parameters()).backward()
        optimiser.step()  # gives it two tensors for each parameter
        assert_is_found(
            {
                "epoch": 3,
                "loss": [0.25, 0.125],
                "arch": "RRDBNet",
                "steps": torch.tensor(4000),
                "rng": torch.get_rng_state(),
                "discriminator": discriminator.state_dict(),
                wrapper: state,
                "optimizer": optimiser.state_dict(),
                "lr_schedulers": [{"last_epoch": 3}],
            }
        )

    def test_other_networks_in_the_file_are_ignored(self, assert_is_found, state):
        discriminator = torch.nn.Conv2d(3, 4, 3).state_dict()
        together = (
            prefixed("discriminator.", discriminator) | prefixed("generator.", state) | {"step_counter": torch.ones(1)}
        )
        assert_is_found(together)
        assert_is_found({"state_dict": together, "meta": {"iter": 400000}})

    def test_wrapped_network_with_a_missing_tensor_is_refused(self, tmp_path, state):
        del state["body.0.rdb2.conv3.bias"]
        torch.save({"params_ema": prefixed("module.", state)}, tmp_path / "short.pth")
        with pytest.raises(WeightsError, match="looks like rrdbnet, but does not fit it"):
            load_weights(tmp_path / "short.pth")

    def test_error_for_an_unknown_network_lists_its_keys(self, tmp_path):
        torch.save(
            {"step": torch.ones(1), "model": {"encoder.weight": torch.ones(2), "b": torch.ones(2)}}, tmp_path / "a.pt"
        )
        with pytest.raises(WeightsError, match=r"its keys: encoder\.weight, b"):
            load_weights(tmp_path / "a.pt")

    def test_dict_that_contains_itself_is_refused(self, tmp_path):
        content = {"key": torch.ones(1)}
        for wrapper in WRAPPERS:
            content[wrapper] = content
        torch.save(content, tmp_path / "loop.pth")
        started = time.monotonic()
        with pytest.raises(WeightsError, match="not the weights of a supported network"):
            load_weights(tmp_path / "loop.pth")
        assert time.monotonic() - started < 5


class TestFingerprint:
    @pytest.fixture
    def files(self, tmp_path, tiny_network):
        state = tiny_network("rrdbnet").state_dict()
        torch.save({"params_ema": state}, tmp_path / "a.pth")
        torch.save({as_bsrgan(key, 1): value for key, value in state.items()}, tmp_path / "b.pt")
        save_file(dict(reversed(state.items())), tmp_path / "c.safetensors")
        return sorted(tmp_path.iterdir())

    def test_fingerprint_is_the_same_in_every_format_and_dialect(self, files):
        assert len({load_weights(path).fingerprint for path in files}) == 1

    def test_fingerprint_of_other_weights_differs(self, tmp_path, tiny_network, files):
        state = tiny_network("rrdbnet").state_dict()
        state["conv_last.bias"][0] += 1e-6
        save_file(state, tmp_path / "other.safetensors")
        assert load_weights(tmp_path / "other.safetensors").fingerprint != load_weights(files[0]).fingerprint

    def test_file_name_is_not_part_of_the_models_name(self, files):
        fingerprint = load_weights(files[0]).fingerprint
        card, upscaler = OpenedModel(str(files[0])).card, load_upscaler(str(files[0]))
        assert card.name == upscaler.name == f"rrdbnet-x4-{fingerprint[:8]}"
        assert (card.halo, card.exact, card.fade) == (upscaler.halo, upscaler.exact, upscaler.fade)


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


class TestRefusal:
    def test_pickle_bomb_is_refused_without_being_executed(self, tmp_path):
        trace = tmp_path / "executed"
        bombs = {"zipped.pth": lambda path: torch.save({"params_ema": {"conv_first.weight": Bomb(trace)}}, path)}
        bombs["plain.pth"] = lambda path: path.write_bytes(pickle.dumps(Bomb(trace)))
        for name, write in bombs.items():
            write(tmp_path / name)
            with pytest.raises(WeightsError, match=f"{name}.*safetensors"):
                load_upscaler(str(tmp_path / name))
        assert not trace.exists()
        pickle.loads(pickle.dumps(Bomb(trace)))
        assert trace.exists(), "the bomb works where it is let"

    @given(content=st.binary(max_size=300))
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_invalid_content_is_refused_with_the_file_name(self, tmp_path, content):
        for name in ("rubbish.pth", "rubbish.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(WeightsError, match=name):
                load_weights(tmp_path / name)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_truncated_file_is_refused(self, tmp_path, tiny_network, suffix):
        whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
        state = tiny_network("srvgg-compact").state_dict()
        (torch.save if suffix == ".pth" else lambda s, p: save_file(s, p))(state, whole)
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(WeightsError, match=f"cut{suffix}"):
            load_weights(cut)

    def test_error_names_a_missing_file(self, tmp_path):
        with pytest.raises(WeightsError, match=r"nothing\.pth: no such file"):
            load_upscaler(str(tmp_path / "nothing.pth"))

    def test_whole_pickled_module_is_refused(self, tmp_path):
        torch.save(SRVGGNetCompact(8, 1), tmp_path / "module.pth")
        with pytest.raises(WeightsError, match="nothing but tensors"):
            load_weights(tmp_path / "module.pth")

    def test_error_for_other_networks_lists_the_supported_ones(self, tmp_path):
        save_file({"encoder.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match=r"srvgg-compact, rrdbnet, srcnn.*encoder\.weight"):
            load_weights(tmp_path / "other.safetensors")

    def test_content_without_a_state_dict_is_refused(self, tmp_path):
        torch.save([torch.zeros(3)], tmp_path / "list.pth")
        with pytest.raises(WeightsError, match="state_dict"):
            load_weights(tmp_path / "list.pth")

    @pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
    def test_state_dict_with_wrong_shapes_is_refused(self, tmp_path, tiny_network, change):
        state = tiny_network("rrdbnet").state_dict()
        if change == "missing":
            del state["body.0.rdb2.conv3.bias"]
        elif change == "surplus":
            state["body.0.rdb1.conv6.weight"] = torch.zeros(1)
        else:
            state["conv_hr.weight"] = torch.zeros(8, 9, 3, 3)
        save_file(state, tmp_path / "ill.safetensors")
        with pytest.raises(WeightsError, match="looks like rrdbnet"):
            load_weights(tmp_path / "ill.safetensors")

    def test_tensor_far_larger_than_its_file_is_refused(self, tmp_path):
        torch.save({"body.0.weight": torch.zeros(1).expand(2**20, 2**12, 3, 3)}, tmp_path / "large.pth")
        with pytest.raises(WeightsError, match="larger than"):
            load_weights(tmp_path / "large.pth")

    def test_file_above_the_size_limit_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(slidelift.models.zoo.weights, "MAX_BYTES", 10)
        (tmp_path / "large.pth").write_bytes(b"x" * 11)
        with pytest.raises(WeightsError, match="more than the 10"):
            load_weights(tmp_path / "large.pth")

    def test_file_with_another_hash_than_its_card_is_refused(self, tmp_path, tiny_network):
        path = tmp_path / "compact.safetensors"
        save_file(tiny_network("srvgg-compact").state_dict(), path)
        load_weights(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        with pytest.raises(WeightsError, match="its card says"):
            load_weights(path, sha256="0" * 64)

    @pytest.mark.parametrize("value", [float("inf"), float("nan")])
    def test_non_finite_weights_fail_the_self_test(self, tmp_path, tiny_network, value):
        state = tiny_network("srvgg-compact").state_dict()
        state["body.2.weight"][0, 0, 0, 0] = value
        save_file(state, tmp_path / "broken.safetensors")
        with pytest.raises(WeightsError, match="NaN or infinity"):
            load_weights(tmp_path / "broken.safetensors")

    @pytest.mark.parametrize("name", NETWORKS)
    def test_network_that_shifts_colours_fails_the_self_test(self, tmp_path, tiny_network, name):
        channels = {"channels": 3} if name == "vdsr" else {}  # one plane without biases can only multiply
        save_file(tiny_network(name, shift=-20, **channels).state_dict(), tmp_path / "shifted.safetensors")
        with pytest.raises(UntrainedWeightsError, match=r"changes a patch of grey by (20\.[0-2]|19\.[789])"):
            load_weights(tmp_path / "shifted.safetensors", scale=None if has_scale(name) else 4)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_small_colour_shift_gives_a_warning(self, tmp_path, tiny_network, name):
        channels = {"channels": 3} if name == "vdsr" else {}
        save_file(tiny_network(name, shift=3, **channels).state_dict(), tmp_path / "shifted.safetensors")
        weights = load_weights(tmp_path / "shifted.safetensors", scale=None if has_scale(name) else 4)
        assert weights.colour_shift == pytest.approx(3, abs=0.3)
        assert len(weights.card().warnings) == 1

    def test_back_projection_is_part_of_the_self_test(self, tmp_path, tiny_network):
        spec, state = NETWORKS["srvgg-compact"], tiny_network("srvgg-compact", shift=20).state_dict()
        path = tmp_path / "held.safetensors"
        save_weights(path, spec, spec.hyperparameters(state), state, {"back_projection": "1"})
        assert load_weights(path).back_projection
        three = tiny_network("srvgg-compact", scale=3).state_dict()
        save_weights(path, spec, spec.hyperparameters(three), three, {"back_projection": "1"})
        with pytest.raises(WeightsError, match="x3 has none"):
            load_weights(path)


class TestColourShift:
    """Weights are refused from 16 levels of 255 on, and used with a warning from 2 on."""

    @pytest.fixture
    def moving(self, tmp_path):
        """Write weights that add this many levels to one channel and change nothing else."""

        def write(levels, channel=0):
            network = SRVGGNetCompact(features=2, convolutions=0)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.zero_()
                network.body[-1].bias[16 * channel : 16 * (channel + 1)] = levels / 255
            save_file(network.state_dict(), tmp_path / "moving.safetensors")
            return tmp_path / "moving.safetensors"

        return write

    @pytest.mark.parametrize("channel", [0, 1, 2])
    @pytest.mark.parametrize("levels", [0, 0.07, 1.99, -1.99])
    def test_no_warning_below_two_levels(self, moving, levels, channel):
        weights = load_weights(moving(levels, channel))
        assert weights.colour_shift == abs(levels)
        assert weights.card().warnings == ()

    @pytest.mark.parametrize("channel", [0, 1, 2])
    @pytest.mark.parametrize("levels", [2, -2, 2.01, 4.21, 15.99, -15.99])
    def test_warning_from_two_levels_on(self, moving, levels, channel):
        weights = load_weights(moving(levels, channel))
        assert weights.colour_shift == abs(levels)
        (warning,) = weights.card().warnings
        assert warning.startswith(
            f"{weights.name} changes colours: in its self-test a plain colour shifted by {abs(levels):g} of 255"
        )

    @pytest.mark.parametrize("channel", [0, 1, 2])
    @pytest.mark.parametrize("levels", [16, -16, 16.01, 132])
    def test_weights_are_refused_from_sixteen_levels_on(self, moving, levels, channel):
        with pytest.raises(UntrainedWeightsError, match=rf"a patch of grey by {abs(levels):.2f} of 255 levels, 16 or"):
            load_weights(moving(levels, channel))

    def test_largest_colour_shift_counts(self, tmp_path):
        network = SRVGGNetCompact(features=2, convolutions=0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            network.body[0].weight[0, 0, 1, 1] = 1  # red, of which grey has 128 levels and eosin pink 226
            network.body[-1].weight[:16, 0, 1, 1] = 0.05
        save_file(network.state_dict(), tmp_path / "redder.safetensors")
        assert load_weights(tmp_path / "redder.safetensors").colour_shift == pytest.approx(0.05 * 226)

    def test_no_colour_shift_without_the_self_test(self, moving):
        weights = load_weights(moving(132), self_test=False)
        assert weights.colour_shift is None
        assert weights.card().warnings == ()

    def test_imported_models_card_keeps_the_colour_shift(self, moving, tmp_path, monkeypatch):
        monkeypatch.setenv("SLIDELIFT_MODELS_DIR", str(tmp_path / "models"))
        model_catalog.cache_clear()
        try:
            for levels, name in ((3, "tinted"), (1, "true")):
                import_model(moving(levels), name=name)
                assert find(name).colour_shift == levels
            assert find("true").warnings == ()
            assert (
                find("tinted")
                .warnings[0]
                .startswith("tinted changes colours: in its self-test a plain colour shifted by 3 of 255 levels")
            )
            for wrong in ("much", -1, 256, True):
                card = json.loads((tmp_path / "models" / "true.json").read_text("utf-8"))
                (tmp_path / "models" / "true.json").write_text(json.dumps(card | {"colour_shift": wrong}))
                model_catalog.cache_clear()
                assert "colour_shift" in damaged_cards()["true"]
        finally:
            model_catalog.cache_clear()

    @pytest.mark.parametrize("name", [name for name, card in catalog().items() if card.weights])
    def test_shipped_networks_need_no_warning(self, name):
        assert load_weights(weights_paths(find(name))).card().warnings == ()


class TestScaleThatWeightsDoNotTell:
    @pytest.fixture(params=["srcnn", "fsrcnn", "vdsr"])
    def network(self, request, tiny_network):
        return tiny_network(request.param, scale=3)

    @pytest.fixture
    def path(self, tmp_path, network):
        torch.save(network.state_dict(), tmp_path / "public.pth")
        return tmp_path / "public.pth"

    def test_missing_scale_is_an_error(self, path):
        with pytest.raises(WeightsError, match=r"do not tell their scale.*models import public\.pth --scale N"):
            load_upscaler(str(path))

    def test_callers_scale_is_used(self, path):
        assert load_weights(path, scale=3).geometry.scale == 3

    def test_unsupported_scale_is_refused(self, path):
        with pytest.raises(WeightsError, match="enlarges by 2, 3, 4, not by 7"):
            load_weights(path, scale=7)

    def test_scale_in_the_metadata_is_used(self, tmp_path, network):
        spec = next(spec for spec in NETWORKS.values() if spec.recognise(network.state_dict()))
        state = network.state_dict()
        path = tmp_path / "own.safetensors"
        save_weights(path, spec, spec.hyperparameters(state) | {"scale": 3}, state, {}, half=False)
        assert_loads_as(path, network)

    def test_scale_of_the_weights_has_precedence(self, tmp_path, tiny_network):
        torch.save(tiny_network("espcn").state_dict(), tmp_path / "espcn.pth")
        with pytest.raises(WeightsError, match="enlarges by 4, not by 2"):
            load_weights(tmp_path / "espcn.pth", scale=2)


class TestFacts:
    def test_metadata_are_read_as_written(self, tmp_path, tiny_network):
        facts = {"licence": "CC-BY-4.0", "trained_on": "twelve slides", "source_mpp": "0.8,2.2", "recipe": "test"}
        spec, state = NETWORKS["espcn"], tiny_network("espcn").state_dict()
        save_weights(tmp_path / "a.safetensors", spec, spec.hyperparameters(state), state, facts)
        weights = load_weights(tmp_path / "a.safetensors")
        assert facts.items() < weights.facts.items()
        assert weights.facts["architecture"] == "espcn"
        assert json.loads(weights.facts["hyperparameters"]) == weights.hyperparameters
        card = weights.card()
        assert (card.licence, card.trained_on, card.source_mpp) == ("CC-BY-4.0", "twelve slides", (0.8, 2.2))

    def test_untrusted_metadata_are_truncated_and_cleaned(self, tmp_path, tiny_network):
        metadata = {"notes": "a\x1b[31m" + "b" * 10**6, "evil": "x", "source_mpp": "nan,-1", "licence": "x\ny"}
        save_file(tiny_network("espcn").state_dict(), tmp_path / "a.safetensors", metadata)
        weights = load_weights(tmp_path / "a.safetensors")
        assert "evil" not in weights.facts
        assert weights.facts["licence"] == "x y"
        assert weights.facts["notes"].startswith("a [31mb")
        assert len(weights.facts["notes"]) == 2**14
        assert weights.card().source_mpp is None

    def test_unknown_metadata_key_is_refused(self, tmp_path, tiny_network):
        spec, state = NETWORKS["espcn"], tiny_network("espcn").state_dict()
        with pytest.raises(ValueError, match="colour"):
            save_weights(tmp_path / "a.safetensors", spec, spec.hyperparameters(state), state, {"colour": "red"})
        assert list(tmp_path.iterdir()) == []

    def test_only_kernels_are_stored_in_float16(self, tmp_path, tiny_network):
        spec, state = NETWORKS["srresnet"], tiny_network("srresnet").state_dict()
        save_weights(tmp_path / "a.safetensors", spec, spec.hyperparameters(state), state, {})
        stored = load_file(tmp_path / "a.safetensors")
        assert stored["block1.0.weight"].dtype == torch.float16
        assert stored["block1.0.bias"].dtype == torch.float32
        assert stored["block2.bn1.running_var"].dtype == torch.float32
        assert stored["block2.bn1.num_batches_tracked"].dtype == torch.int64


class TestShards:
    def test_several_files_hold_one_network(self, tmp_path, tiny_network):
        state = tiny_network("edsr").state_dict()
        keys = list(state)
        paths = [tmp_path / "a-1.safetensors", tmp_path / "a-2.safetensors"]
        save_file({key: state[key] for key in keys[:7]}, paths[0])
        save_file({key: state[key] for key in keys[7:]}, paths[1])
        sha256 = hashlib.sha256(paths[0].read_bytes() + paths[1].read_bytes()).hexdigest()
        save_file(state, tmp_path / "whole.safetensors")
        assert load_weights(paths, sha256).fingerprint == load_weights(tmp_path / "whole.safetensors").fingerprint
        with pytest.raises(WeightsError, match="its card says"):
            load_weights(paths[::-1], sha256)
        with pytest.raises(WeightsError, match=r"a-1\.safetensors"):
            load_weights(paths[:1])
