"""The tables of `docs/models.md` and `README.md`, and the measurements that they show.

    python -m slidelift.service.tools.model_table                     write the tables
    python -m slidelift.service.tools.model_table --images DIR... [--models A,B]
                                                                      measure catalog models first
    python -m slidelift.service.tools.model_table --images DIR --precision
                                                                      measure the cost of 16-bit arithmetic

Measurements are stored in `models/zoo/metrics.json`.

A system is a recipe; it is shipped where a card of the catalog names that recipe.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from slidelift.models.evaluate import BASELINE, card_metrics, evaluate
from slidelift.models.hardware import describe_hardware
from slidelift.models.image_files import image_files
from slidelift.models.inference import PRECISIONS
from slidelift.models.metrics.source import SourceModel
from slidelift.models.networks.back_projection import REACH
from slidelift.models.networks.table import NETWORKS
from slidelift.models.training import recipe as recipes
from slidelift.models.training.recipe import Recipe
from slidelift.models.upscaler import load_upscaler
from slidelift.models.zoo.catalog import METRICS, ModelCard, ModelKind, catalog, model_catalog
from slidelift.models.zoo.expectation import NOT_COMPRESSED

_ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, README = _ROOT / "docs" / "models.md", _ROOT / "README.md"
_SYSTEMS = "<!-- systems: python -m slidelift.service.tools.model_table -->", "<!-- end of systems -->"
_GAINS = "<!-- gains: python -m slidelift.service.tools.model_table -->", "<!-- end of gains -->"
_QUALITIES = "none,92,80,70,45,30"
"""The measuring convention, and JPEG from a careful scanner's to the strongest compression that is common."""


def render() -> str:
    """The table, as Markdown."""
    sets = list(dict.fromkeys(name for card in catalog().values() for name in card.metrics))
    head = ["recipe", "system", "weights", "halo", "shipped as"]
    for name in sets:
        head += [f"{name}: gain dB", "SSIM", "MS-SSIM", "QILV", "consistency p5", "s/Mpx"]
    lines = [_line(head), "|---" * len(head) + "|"]
    cards = [card for card in catalog().values() if not card.imported]
    for card in cards:
        if card.kind is ModelKind.INTERPOLATION:
            lines.append(_line(["", card.name, "0", str(card.halo), card.name, *_figures(card, sets)]))
    for name in recipes.names():
        recipe = recipes.load(name)
        shipped = [card for card in cards if card.recipe == name]
        if not shipped:
            lines.append(_line([*_facts(recipe), "recipe only", *_figures(None, sets)]))
        for card in shipped:
            halo = f"{card.halo}" if card.exact else f"{card.halo}, faded over {card.fade}"
            facts = [f"`{name}`", recipe.title, f"{card.parameters:,}", halo]
            lines.append(_line([*facts, card.name, *_figures(card, sets)]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _facts(recipe: Recipe) -> list[str]:
    spec = NETWORKS[recipe.network]
    hyperparameters = {**recipe.hyperparameters, "scale": recipe.scale}
    network = spec.build(**hyperparameters)
    geometry = spec.geometry(spec.hyperparameters(network.state_dict()) | {"scale": recipe.scale})
    weights = sum(parameter.numel() for parameter in network.parameters())
    reach = geometry.halo + (REACH if recipe.back_projection else 0)
    halo = f"{reach}" if geometry.exact else f"{reach}, faded over {geometry.fade}"
    return [f"`{recipe.name}`", recipe.title, f"{weights:,}", halo]


def _figures(card: ModelCard | None, sets: Sequence[str]) -> list[str]:
    cells = []
    for name in sets:
        found = card.metrics.get(name, {}) if card else {}
        for measure, form in (
            ("psnr_y_gain", "+.2f"),
            ("ssim_y_gain", "+.4f"),
            ("ms_ssim", ".4f"),
            ("qilv", ".4f"),
            ("consistency_p5", ".1f"),
            ("seconds_per_megapixel", ".2f"),
        ):
            cells.append(format(found[measure], form) if measure in found else "")
    return cells


def measure(folders: Sequence[Path], names: Sequence[str], device: str, qualities: Sequence[int | None]) -> None:
    """Score models of one scale after another on every folder, and keep the figures for their cards.

    Parameters
    ----------
    qualities
        JPEG qualities of the source; None for one that is not compressed, of which all measures are kept.
    """
    for scale in sorted({catalog()[name].default_scale for name in names}):
        upscalers = {
            name: load_upscaler(name, scale=scale, device=device)
            for name in dict.fromkeys([BASELINE, *names])
            if name == BASELINE or catalog()[name].default_scale == scale
        }
        words = {name: describe_hardware({name: upscaler}) for name, upscaler in upscalers.items()}
        for folder, quality in product(folders, qualities):
            source = SourceModel(quality=quality)
            wanted = None if quality is None else ("psnr_y",)
            found = evaluate(upscalers, image_files(folder), scale, source=source, wanted=wanted).models
            kept = _measured()
            for name in names:
                if name in found and catalog()[name].default_scale == scale:
                    card = kept.setdefault(name, {})
                    if quality is None:
                        card.setdefault("metrics", {})[folder.name] = card_metrics(found[name])
                    gains = card.setdefault("gains", {}).setdefault(folder.name, {})
                    gains[source.label] = round(found[name].gain["psnr_y"].mean, 2)
                    card["computed_on"] = words[name]
            _keep(kept)  # each set for itself: an hour's measurement may be cut short


def measure_precision(folder: Path, names: Sequence[str], count: int | None) -> None:
    """What each network loses in 16 bits, in dB of PSNR-Y below fp32, mean over a folder's images.

    A CPU that has no such arithmetic emulates it, slowly and with the same rounding.
    """
    for name in names:
        if catalog()[name].kind is ModelKind.INTERPOLATION:
            continue
        scale, psnr = catalog()[name].default_scale, {}
        for precision in PRECISIONS:
            upscalers = {BASELINE: load_upscaler(BASELINE, scale=scale)}
            upscalers[name] = load_upscaler(name, scale=scale, device="cpu", precision=precision)
            found = evaluate(upscalers, image_files(folder, count), scale, wanted=("psnr_y",)).models[name]
            psnr[precision] = found.summary["psnr_y"].mean
        kept = _measured()
        kept.setdefault(name, {})["precision_loss"] = {
            precision: round(psnr["fp32"] - value, 3) for precision, value in psnr.items() if precision != "fp32"
        }
        _keep(kept)


def _measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(METRICS.read_text(encoding="utf-8")) if METRICS.exists() else {}
    return found


def _keep(measured: Mapping[str, Any]) -> None:
    for card in measured.values():
        for name, gains in card.get("gains", {}).items():
            card["gains"][name] = dict(sorted(gains.items(), key=lambda pair: _order(pair[0])))
    text = json.dumps(dict(sorted(measured.items())), indent=1)
    METRICS.write_text(text + "\n", encoding="utf-8")
    model_catalog.cache_clear()


def _order(label: str) -> int:
    """Sources from the best to the most compressed."""
    return -101 if label == NOT_COMPRESSED else -int(label.removeprefix("Q"))


def gains_table(cards: Sequence[ModelCard]) -> str:
    """Gain over bicubic by the source's compression, a row for each model and set, as Markdown."""
    labels = sorted({label for card in cards for by in card.gains.values() for label in by}, key=_order)
    lines = [_line(["model", "set", *labels]), "|---" * (len(labels) + 2) + "|"]
    for card in cards:
        for name, by in sorted(card.gains.items()):
            cells = [format(by[label], "+.2f") if label in by else "" for label in labels]
            scale = f", ×{card.default_scale}"
            lines.append(_line([f"`{card.name}`{scale}", name, *cells]))
    return "\n".join(lines)


def _computed_on(cards: Sequence[ModelCard]) -> str:
    return " ".join(dict.fromkeys(card.computed_on for card in cards if card.computed_on))


def write() -> None:
    """Put the tables into their pages."""
    shipped = [card for card in catalog().values() if not card.imported and card.gains]
    recommended = [card for card in shipped if card.effort]
    _put(PAGE, _SYSTEMS, render())
    _put(PAGE, _GAINS, f"{gains_table(shipped)}\n\n{_computed_on(shipped)}")
    _put(README, _GAINS, f"{gains_table(recommended)}\n\n{_computed_on(recommended)}")


def _put(page: Path, marks: tuple[str, str], table: str) -> None:
    begin, end = marks
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="folders of held-out images, one a set")
    parser.add_argument("--models", help="catalog names, separated by commas (default: all)")
    parser.add_argument("--qualities", default=_QUALITIES, help=f"JPEG qualities of the source (default {_QUALITIES})")
    parser.add_argument("--precision", action="store_true", help="measure what 16 bits cost, on the first folder alone")
    parser.add_argument("--count", type=int, help="images for --precision (default: all)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    names = options.models.split(",") if options.models else [c.name for c in catalog().values() if not c.imported]
    if options.images and options.precision:
        measure_precision(options.images[0], names, options.count)
    elif options.images:
        qualities = [None if word == NOT_COMPRESSED else int(word) for word in options.qualities.split(",")]
        measure(options.images, names, options.device, qualities)
    write()
    sys.stdout.write(f"{PAGE}\n{README}\n")


if __name__ == "__main__":
    main()
