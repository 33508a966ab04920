"""Public checkpoints load by their own key names; anything else is refused with a reason, and never executed."""

import hashlib
import json
import os
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import models.zoo.weights
from models.errors import WeightsError
from models.networks.rrdbnet import RRDBNet
from models.networks.srvgg_compact import SRVGGNetCompact
from models.networks.table import NETWORKS
from models.upscaler import load_upscaler, model_card
from models.zoo.weights import load_weights, save_weights


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
    def test_full_size_rrdbnet_has_the_public_files_keys(self):
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
        with pytest.raises(WeightsError, match=r"srvgg-compact, rrdbnet, srcnn.*encoder\.weight"):
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
    @pytest.mark.parametrize("shift", [-20, 3])
    def test_network_that_shifts_colours_fails_the_self_test(self, tmp_path, tiny_network, name, shift):
        channels = {"channels": 3} if name == "vdsr" else {}  # one plane without biases can only multiply
        save_file(tiny_network(name, shift=shift, **channels).state_dict(), tmp_path / "shifted.safetensors")
        with pytest.raises(
            WeightsError, match=rf"changes a patch of grey by ({abs(shift)}\.[0-2]|{abs(shift) - 1}\.[789])"
        ):
            load_weights(tmp_path / "shifted.safetensors", scale=None if has_scale(name) else 4)

    def test_back_projection_is_part_of_the_self_test(self, tmp_path, tiny_network):
        spec, state = NETWORKS["srvgg-compact"], tiny_network("srvgg-compact", shift=20).state_dict()
        path = tmp_path / "held.safetensors"
        save_weights(path, spec, spec.hyperparameters(state), state, {"back_projection": "1"})
        assert load_weights(path).back_projection
        three = tiny_network("srvgg-compact", scale=3).state_dict()
        save_weights(path, spec, spec.hyperparameters(three), three, {"back_projection": "1"})
        with pytest.raises(WeightsError, match="x3 has none"):
            load_weights(path)


class TestScaleThatWeightsDoNotTell:
    @pytest.fixture(params=["srcnn", "fsrcnn", "vdsr"])
    def network(self, request, tiny_network):
        return tiny_network(request.param, scale=3)

    @pytest.fixture
    def path(self, tmp_path, network):
        torch.save(network.state_dict(), tmp_path / "public.pth")
        return tmp_path / "public.pth"

    def test_it_must_be_said(self, path):
        with pytest.raises(WeightsError, match=r"do not tell their scale.*models import public\.pth --scale N"):
            load_upscaler(str(path))

    def test_it_is_taken_from_the_caller(self, path):
        assert load_weights(path, scale=3).geometry.scale == 3

    def test_another_than_the_papers_is_refused(self, path):
        with pytest.raises(WeightsError, match="enlarges by 2, 3, 4, not by 7"):
            load_weights(path, scale=7)

    def test_it_is_taken_from_the_files_facts(self, tmp_path, network):
        spec = next(spec for spec in NETWORKS.values() if spec.recognise(network.state_dict()))
        state = network.state_dict()
        path = tmp_path / "own.safetensors"
        save_weights(path, spec, spec.hyperparameters(state) | {"scale": 3}, state, {}, half=False)
        assert_loads_as(path, network)

    def test_weights_that_tell_theirs_are_believed_before_the_caller(self, tmp_path, tiny_network):
        torch.save(tiny_network("espcn").state_dict(), tmp_path / "espcn.pth")
        with pytest.raises(WeightsError, match="enlarges by 4, not by 2"):
            load_weights(tmp_path / "espcn.pth", scale=2)


class TestFacts:
    def test_they_come_back_as_they_were_written(self, tmp_path, tiny_network):
        facts = {"licence": "CC-BY-4.0", "trained_on": "twelve slides", "source_mpp": "0.8,2.2", "recipe": "test"}
        spec, state = NETWORKS["espcn"], tiny_network("espcn").state_dict()
        save_weights(tmp_path / "a.safetensors", spec, spec.hyperparameters(state), state, facts)
        weights = load_weights(tmp_path / "a.safetensors")
        assert facts.items() < weights.facts.items()
        assert weights.facts["architecture"] == "espcn"
        assert json.loads(weights.facts["hyperparameters"]) == weights.hyperparameters
        card = weights.card()
        assert (card.licence, card.trained_on, card.source_mpp) == ("CC-BY-4.0", "twelve slides", (0.8, 2.2))

    def test_a_strangers_metadata_are_cut_and_cleaned(self, tmp_path, tiny_network):
        metadata = {"notes": "a\x1b[31m" + "b" * 10**6, "evil": "x", "source_mpp": "nan,-1", "licence": "x\ny"}
        save_file(tiny_network("espcn").state_dict(), tmp_path / "a.safetensors", metadata)
        weights = load_weights(tmp_path / "a.safetensors")
        assert "evil" not in weights.facts
        assert weights.facts["licence"] == "x y"
        assert weights.facts["notes"].startswith("a [31mb")
        assert len(weights.facts["notes"]) == 2**14
        assert weights.card().source_mpp is None

    def test_a_fact_that_no_reader_knows_is_not_written(self, tmp_path, tiny_network):
        spec, state = NETWORKS["espcn"], tiny_network("espcn").state_dict()
        with pytest.raises(ValueError, match="colour"):
            save_weights(tmp_path / "a.safetensors", spec, spec.hyperparameters(state), state, {"colour": "red"})
        assert list(tmp_path.iterdir()) == []

    def test_vectors_stay_whole_where_kernels_are_halved(self, tmp_path, tiny_network):
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
