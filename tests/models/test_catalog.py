"""Cards say what is true of their models, and reading them costs no torch."""

import hashlib
import subprocess
import sys

import pytest

from models.errors import UnknownModelError, WeightsError
from models.networks.table import NETWORKS
from models.upscaler import load_upscaler
from models.zoo.catalog import DEFAULT_MODEL, ModelKind, catalog, find, weights_paths

NETWORK_CARDS = [card for card in catalog().values() if card.kind is ModelKind.NETWORK]
SHIPPED = [card for card in NETWORK_CARDS if card.weights]


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_listing_the_models_imports_neither_torch_nor_numpy():
    loaded = modules_after("from models.zoo.catalog import catalog; catalog()")
    assert not {"torch", "numpy", "PIL"} & loaded


def test_interpolating_never_imports_torch():
    assert "torch" not in modules_after("from models.upscaler import load_upscaler as l; l('bicubic', scale=2)")


def test_default_model_stands_first():
    assert next(iter(catalog())) == DEFAULT_MODEL


def test_unknown_name_is_answered_with_what_is_on_offer():
    with pytest.raises(UnknownModelError, match=r"compact-x4.*bicubic"):
        find("esrgan-9000")


@pytest.mark.parametrize("card", catalog().values(), ids=lambda card: card.name)
def test_default_scale_is_on_offer(card):
    assert card.default_scale in card.scales


@pytest.mark.parametrize("card", NETWORK_CARDS, ids=lambda card: card.name)
def test_network_cards_agree_with_their_architecture(card):
    spec = NETWORKS[card.architecture]
    network = spec.build(scale=card.default_scale)
    geometry = spec.geometry(spec.hyperparameters(network.state_dict()))
    assert card.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert (card.halo, card.exact, card.fade) == (geometry.halo, geometry.exact, geometry.fade)
    assert card.exact or card.seam, "an inexact network's card states its seam"


@pytest.mark.parametrize("card", SHIPPED, ids=lambda card: card.name)
def test_shipped_weights_are_those_of_their_card(card):
    assert hashlib.sha256(b"".join(path.read_bytes() for path in weights_paths(card))).hexdigest() == card.sha256
    upscaler = load_upscaler(card.name, device="cpu")
    assert (upscaler.name, upscaler.scale) == (card.name, card.default_scale)
    assert card.licence
    assert card.trained_on
    assert card.source_mpp


def test_architecture_without_weights_says_how_to_bring_them():
    with pytest.raises(WeightsError, match=r"--model RealESRGAN_x4plus\.pth"):
        load_upscaler("realesrgan-x4")
