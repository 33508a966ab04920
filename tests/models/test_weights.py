"""Public checkpoints load by their own key names; anything else is refused with a reason, and never executed."""

import hashlib
import os
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import models.zoo.weights
from models.errors import WeightsError
from models.networks.rrdbnet import RRDBNet
from models.networks.srvgg_compact import SRVGGNetCompact
from models.networks.table import NETWORKS
from models.upscaler import load_upscaler, model_card
from models.zoo.weights import load_weights


def realesrgan_x4plus_keys() -> set[str]:
    """As they stand in the public file, 702 of them."""
    layers = ["conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    layers += [f"body.{n}.rdb{d}.conv{c}" for n in range(23) for d in (1, 2, 3) for c in (1, 2, 3, 4, 5)]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def as_old_esrgan(key: str, blocks: int) -> str:
    """ESRGAN's first release, whose layers are numbered."""
    ends = {
        "conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}", "conv_up1": "model.3",
        "conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10",
    }  # fmt: skip
    layer, _, part = key.rpartition(".")
    if layer in ends:
        return f"{ends[layer]}.{part}"
    return re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0", layer) + f".{part}"


def as_bsrgan(key: str, blocks: int) -> str:
    """BSRGAN, RealSR and ESRGAN's second release."""
    ends = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
    layer, _, part = key.rpartition(".")
    layer = ends.get(layer, layer)
    return re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"RRDB_trunk.\1.RDB\2.conv\3", layer) + f".{part}"


def assert_loads_as(path, network):
    """The file's upscaler computes what the network computes."""
    image = np.random.default_rng(1).integers(60, 200, (1, 12, 16, 3), np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255)
    expected = expected.permute(0, 2, 3, 1).mul(255).clamp(0, 255).numpy()
    out = load_upscaler(str(path), device="cpu", precision="fp32")(image)
    assert out.shape == expected.shape
    assert float(np.abs(out.astype(np.float64) - expected).max()) <= (0.501 if out.dtype == np.uint8 else 1e-2)


class TestPublicCheckpoints:
    def test_full_size_rrdbnet_has_the_public_files_keys(self):
        with torch.device("meta"):
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

    @pytest.mark.parametrize("wrapper", ["params-ema", "state_dict", "model_state_dict", "model", "net"])
    @pytest.mark.parametrize("prefix", ["module.", "netG.", "_orig_mod.", "module._orig_mod."])
    def test_trainers_wrappers_and_prefixes_are_taken_off(self, tmp_path, tiny_network, wrapper, prefix):
        network = tiny_network("srvgg-compact")
        state = {prefix + key: value for key, value in network.state_dict().items()}
        path = tmp_path / "wrapped.pt"
        torch.save({wrapper: state, "epoch": 3}, path)
        assert_loads_as(path, network)

    def test_averaged_weights_are_preferred(self, tmp_path, tiny_network):
        averaged, last = tiny_network("srvgg-compact", noise=0.02), tiny_network("srvgg-compact", noise=0.03)
        path = tmp_path / "both.pth"
        torch.save({"params": last.state_dict(), "params_ema": averaged.state_dict()}, path)
        assert_loads_as(path, averaged)

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


class TestFingerprint:
    @pytest.fixture
    def files(self, tmp_path, tiny_network):
        state = tiny_network("rrdbnet").state_dict()
        torch.save({"params_ema": state}, tmp_path / "a.pth")
        torch.save({as_bsrgan(key, 1): value for key, value in state.items()}, tmp_path / "b.pt")
        save_file(dict(reversed(state.items())), tmp_path / "c.safetensors")
        return sorted(tmp_path.iterdir())

    def test_same_weights_agree_in_every_format_and_dialect(self, files):
        assert len({load_weights(path).fingerprint for path in files}) == 1

    def test_other_weights_differ(self, tmp_path, tiny_network, files):
        state = tiny_network("rrdbnet").state_dict()
        state["conv_last.bias"][0] += 1e-6
        save_file(state, tmp_path / "other.safetensors")
        assert load_weights(tmp_path / "other.safetensors").fingerprint != load_weights(files[0]).fingerprint

    def test_file_name_does_not_reach_the_models_name(self, files):
        fingerprint = load_weights(files[0]).fingerprint
        card, upscaler = model_card(str(files[0])), load_upscaler(str(files[0]))
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
    def test_rubbish_is_refused_by_name(self, tmp_path, content):
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

    def test_absent_file_is_named(self, tmp_path):
        with pytest.raises(WeightsError, match=r"nothing\.pth: no such file"):
            load_upscaler(str(tmp_path / "nothing.pth"))

    def test_whole_pickled_module_is_refused(self, tmp_path):
        torch.save(SRVGGNetCompact(8, 1), tmp_path / "module.pth")
        with pytest.raises(WeightsError, match="nothing but tensors"):
            load_weights(tmp_path / "module.pth")

    def test_other_networks_are_refused_with_the_known_ones_named(self, tmp_path):
        save_file({"encoder.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match=r"srvgg-compact, rrdbnet.*encoder\.weight"):
            load_weights(tmp_path / "other.safetensors")

    def test_content_that_is_no_state_dict_is_refused(self, tmp_path):
        torch.save([torch.zeros(3)], tmp_path / "list.pth")
        with pytest.raises(WeightsError, match="state_dict"):
            load_weights(tmp_path / "list.pth")

    @pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
    def test_ill_fitting_state_is_refused(self, tmp_path, tiny_network, change):
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

    def test_file_above_the_limit_is_refused_unread(self, tmp_path, monkeypatch):
        monkeypatch.setattr(models.zoo.weights, "MAX_BYTES", 10)
        (tmp_path / "large.pth").write_bytes(b"x" * 11)
        with pytest.raises(WeightsError, match="more than the 10"):
            load_weights(tmp_path / "large.pth")

    def test_file_that_is_not_its_cards_is_refused(self, tmp_path, tiny_network):
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
    def test_network_for_another_range_of_values_fails_the_self_test(self, tmp_path, tiny_network, name):
        state = tiny_network(name, noise=0.0).state_dict()
        list(state.values())[-1].fill_(20 / 255)
        save_file(state, tmp_path / "shifted.safetensors")
        with pytest.raises(WeightsError, match="changes a grey patch by 20"):
            load_weights(tmp_path / "shifted.safetensors")
