"""Catalog cards agree with their models, and are read without importing torch."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slidelift.models.errors import UnknownModelError, WeightsError
from slidelift.models.evaluate import evaluate
from slidelift.models.image_files import image_files
from slidelift.models.inference import MAX_PRECISION_LOSS
from slidelift.models.metrics.consistency import MAX_BLOCK_RMSE, worst_block
from slidelift.models.upscaler import load_upscaler
from slidelift.models.zoo.catalog import (
    DEFAULT_MODEL,
    ModelKind,
    catalog,
    damaged_cards,
    find,
    model_catalog,
    models_folder,
    weights_paths,
)
from slidelift.models.zoo.imports import import_model, remove_model
from slidelift.models.zoo.weights import load_weights

NETWORK_CARDS = [card for card in catalog().values() if card.kind is ModelKind.NETWORK and not card.imported]


RECOMMENDED = [card for card in NETWORK_CARDS if card.effort]


@pytest.mark.parametrize("card", NETWORK_CARDS, ids=lambda card: card.name)
def test_networks_stay_consistent_on_colours_of_no_stain(card):
    draw = np.random.default_rng(1)
    mosaic = draw.integers(0, 256, (12, 12, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    upscaler = load_upscaler(card.name)
    edge, scale = 24, upscaler.scale
    drawn = np.asarray(upscaler(mosaic[None])[0])[edge * scale : -edge * scale, edge * scale : -edge * scale]
    assert worst_block(drawn, mosaic[edge:-edge, edge:-edge]) < MAX_BLOCK_RMSE


@pytest.mark.parametrize("card", RECOMMENDED, ids=lambda card: card.name)
def test_recommended_networks_beat_bicubic_on_compressed_sources(card):
    """From the best to the worst quality of common scanners, on both sets."""
    assert set(card.gains) == {"kumar", "tnbc"}
    assert "Q80" in card.gains["kumar"]
    assert {"none", "Q92", "Q80", "Q70", "Q45", "Q30"} <= set(card.gains["tnbc"])
    assert all(gain > 0 for by_source in card.gains.values() for gain in by_source.values())
    assert card.computed_on


@pytest.mark.parametrize("card", RECOMMENDED, ids=lambda card: card.name)
def test_recommended_networks_have_a_measured_precision_loss(card):
    assert set(card.precision_loss) == {"bf16", "fp16"}
    assert card.precision_loss["fp16"] <= MAX_PRECISION_LOSS, "else auto takes fp32 on CUDA"


def test_measured_precision_loss_is_that_of_the_card(eval_sets):
    """Measured on one image of the set that the card's figure is the mean of."""
    card = find(DEFAULT_MODEL)
    upscalers = {p: load_upscaler(card.name, device="cpu", precision=p) for p in ("fp32", "bf16")}
    upscalers["bicubic"] = load_upscaler("bicubic", scale=4)
    scores = evaluate(upscalers, image_files(eval_sets / "tnbc", 1), 4, measures=("psnr_y",)).models
    loss = scores["fp32"].summary["psnr_y"].mean - scores["bf16"].summary["psnr_y"].mean
    assert loss == pytest.approx(card.precision_loss["bf16"], abs=0.02)


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_listing_the_models_imports_neither_torch_nor_numpy():
    loaded = modules_after("from slidelift.models.zoo.catalog import catalog; catalog()")
    assert not {"torch", "numpy", "PIL"} & loaded


def test_interpolation_does_not_import_torch():
    assert "torch" not in modules_after(
        "from slidelift.models.upscaler import load_upscaler as l; l('bicubic', scale=2)"
    )


def test_loading_a_network_does_not_import_torchs_compiler():
    """The import would cost two seconds, for random initialisation of meta tensors."""
    names = [card.name for card in NETWORK_CARDS]
    loaded = modules_after(f"from slidelift.models.upscaler import load_upscaler as l; [l(name) for name in {names}]")
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_default_model_is_first():
    assert next(iter(catalog())) == DEFAULT_MODEL


def test_error_for_an_unknown_name_lists_the_available_models():
    with pytest.raises(UnknownModelError, match=r"compact-x4.*bicubic"):
        find("esrgan-9000")


@pytest.mark.parametrize("card", catalog().values(), ids=lambda card: card.name)
def test_default_scale_is_supported(card):
    assert card.default_scale in card.scales


@pytest.mark.parametrize("card", NETWORK_CARDS, ids=lambda card: card.name)
def test_network_cards_agree_with_their_architecture(card):
    loaded = load_weights(weights_paths(card), card.sha256)
    geometry = loaded.geometry
    assert card.architecture == loaded.spec.name
    assert card.back_projection == loaded.back_projection
    assert card.parameters == sum(parameter.numel() for parameter in loaded.network.parameters())
    assert (card.halo, card.exact, card.fade) == (geometry.halo, geometry.exact, geometry.fade)
    assert card.exact or card.seam, "an inexact network's card states its seam"


@pytest.mark.parametrize("card", NETWORK_CARDS, ids=lambda card: card.name)
def test_shipped_weights_are_those_of_their_card(card):
    assert hashlib.sha256(b"".join(path.read_bytes() for path in weights_paths(card))).hexdigest() == card.sha256
    upscaler = load_upscaler(card.name, device="cpu")
    assert (upscaler.name, upscaler.scale) == (card.name, card.default_scale)
    assert card.licence
    assert card.trained_on
    assert card.source_mpp


def test_interpolation_has_no_weights():
    with pytest.raises(WeightsError, match="bicubic has no weights"):
        weights_paths(find("bicubic"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty folder of imported models."""
    monkeypatch.setenv("SLIDELIFT_MODELS_DIR", str(tmp_path / "models"))
    model_catalog.cache_clear()
    yield tmp_path / "models"
    model_catalog.cache_clear()


class TestImported:
    @pytest.fixture
    def file(self, tmp_path, tiny_network):
        torch.save({"params": tiny_network("srcnn", scale=3).state_dict()}, tmp_path / "secret patient.pth")
        return tmp_path / "secret patient.pth"

    def test_imported_model_loads_by_name_and_gives_the_files_output(self, folder, file, tiny_network, patches):
        card = import_model(file, name="mine", scale=3, licence="MIT", source_mpp=(0.5, 1))
        assert find("mine") == card
        assert list(catalog())[-1] == "mine"
        assert (card.scales, card.architecture, card.licence, card.source_mpp) == ((3,), "srcnn", "MIT", (0.5, 1.0))
        assert card.imported
        upscaler = load_upscaler("mine", device="cpu", precision="fp32")
        assert (upscaler.name, upscaler.scale, upscaler.halo) == ("mine", 3, card.halo)
        network = tiny_network("srcnn", scale=3)
        with torch.inference_mode():
            expected = network(torch.from_numpy(patches).permute(0, 3, 1, 2) / 255).permute(0, 2, 3, 1)
        assert (expected.mul(255).clamp(0, 255) - torch.from_numpy(upscaler(patches)).float()).abs().max() <= 0.501

    def test_imported_file_contains_its_metadata(self, folder, file):
        card = import_model(file, name="mine", scale=3, licence="MIT")
        facts = load_weights(folder / "mine.safetensors").facts
        assert (facts["licence"], facts["scale"]) == ("MIT", "3")
        assert facts["origin_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert card.sha256 == hashlib.sha256((folder / "mine.safetensors").read_bytes()).hexdigest()

    def test_default_name_comes_from_the_content_not_the_file_name(self, folder, file):
        card = import_model(file, scale=3)
        assert card.name.startswith("srcnn-x3-")
        assert "patient" not in "".join(path.name + path.read_text("latin-1") for path in folder.iterdir())

    def test_removing_a_model_deletes_its_files(self, folder, file):
        import_model(file, name="mine", scale=3)
        remove_model("mine")
        assert "mine" not in catalog()
        assert list(folder.iterdir()) == []
        with pytest.raises(UnknownModelError, match="mine: no imported model"):
            remove_model("mine")

    @pytest.mark.parametrize("name", [DEFAULT_MODEL, "bicubic"])
    def test_shipped_models_can_not_be_replaced_or_removed(self, folder, file, name):
        with pytest.raises(WeightsError, match="is taken; choose another"):
            import_model(file, name=name, scale=3)
        with pytest.raises(UnknownModelError, match="no imported model"):
            remove_model(name)
        assert not folder.exists()

    def test_name_can_be_used_once(self, folder, file):
        import_model(file, name="mine", scale=3)
        with pytest.raises(WeightsError, match="slidelift models remove mine"):
            import_model(file, name="mine", scale=3)

    @pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "x" * 65, "net.pth", "a/b", "a\nb"])
    def test_invalid_name_is_refused(self, folder, file, name):
        with pytest.raises(WeightsError, match=r"not a valid model name|omit the suffix"):
            import_model(file, name=name, scale=3)

    def test_failed_import_leaves_no_files(self, folder, tmp_path, tiny_network):
        torch.save(tiny_network("espcn", shift=-20).state_dict(), tmp_path / "dark.pth")
        with pytest.raises(WeightsError, match="changes a patch of grey"):
            import_model(tmp_path / "dark.pth", name="dark")
        assert not folder.exists()

    @pytest.mark.parametrize(
        "content",
        ["", "[]", "{", '{"kind": "network"}', "\xff", '{"halo": "x"}', "[" * 100_000, " " * 200_000],
        ids=range(8),
    )
    def test_damaged_card_is_reported_and_the_others_load(self, folder, file, content):
        import_model(file, name="mine", scale=3)
        (folder / "bad.json").write_text(content, "latin-1")
        model_catalog.cache_clear()
        assert "mine" in catalog()
        assert "bad" not in catalog()
        assert str(folder / "bad.json") in damaged_cards()["bad"]
        with pytest.raises(WeightsError, match=r"bad\.json"):
            load_upscaler("bad")
        remove_model("bad")
        assert damaged_cards() == {}

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("weights", ["../../etc/passwd"]), ("weights", []), ("sha256", "0"), ("scales", [4.5]), ("scales", []),
            ("default_scale", 2), ("halo", -1), ("exact", "yes"), ("kind", "interpolation"), ("kind", "magic"),
            ("source_mpp", [2, 1]), ("source_mpp", "ab"), ("notes", 7), ("surplus", 1), ("description", None),
        ],
    )  # fmt: skip
    def test_edited_card_with_invalid_values_is_damaged(self, folder, file, key, value):
        import_model(file, name="mine", scale=3)
        card = json.loads((folder / "mine.json").read_text("utf-8"))
        (folder / "mine.json").write_text(json.dumps(card | {key: value}))
        model_catalog.cache_clear()
        assert "mine" not in catalog()
        assert "mine" in damaged_cards()

    def test_card_with_the_name_of_a_shipped_model_is_damaged(self, folder, file):
        import_model(file, name="mine", scale=3)
        (folder / "mine.json").rename(folder / f"{DEFAULT_MODEL}.json")
        model_catalog.cache_clear()
        assert not catalog()[DEFAULT_MODEL].imported
        assert "name of a shipped model" in damaged_cards()[DEFAULT_MODEL]
        assert load_upscaler(DEFAULT_MODEL).name == DEFAULT_MODEL

    def test_replaced_weights_are_refused(self, folder, file, tiny_network):
        import_model(file, name="mine", scale=3)
        save_file(tiny_network("espcn").state_dict(), folder / "mine.safetensors")
        with pytest.raises(WeightsError, match="its card says"):
            load_upscaler("mine")

    def test_models_folder_follows_xdg(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SLIDELIFT_MODELS_DIR", raising=False)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert models_folder() == tmp_path / "slidelift" / "models"
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert models_folder() == tmp_path / ".local" / "share" / "slidelift" / "models"
