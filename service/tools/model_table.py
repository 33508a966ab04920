"""Measure models and write the tables of `docs/models.md` and `README.md`.

    python -m slidelift.service.tools.model_table                     write the tables
    python -m slidelift.service.tools.model_table --images DIR... [--models A,B]
                                                                      measure models of the catalog first
    python -m slidelift.service.tools.model_table --images DIR --precision
                                                                      measure the loss of 16-bit arithmetic first

Measurements are stored in `models/zoo/metrics.json`. The table has a row per recipe, and per shipped model trained by
it.
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
"""The measuring convention, and JPEG qualities from the best to the worst of common scanners."""


def render() -> str:
    """Return the table of recipes and models as Markdown."""
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
        metrics = card.metrics.get(name, {}) if card else {}
        for measure, form in (
            ("psnr_y_gain", "+.2f"),
            ("ssim_y_gain", "+.4f"),
            ("ms_ssim", ".4f"),
            ("qilv", ".4f"),
            ("consistency_p5", ".1f"),
            ("seconds_per_megapixel", ".2f"),
        ):
            cells.append(format(metrics[measure], form) if measure in metrics else "")
    return cells


def measure(folders: Sequence[Path], names: Sequence[str], device: str, qualities: Sequence[int | None]) -> None:
    """Evaluate models on every folder and store the results for their cards.

    Parameters
    ----------
    qualities
        JPEG qualities of the source; None for an uncompressed source, for which all measures are stored.
    """
    for scale in sorted({catalog()[name].default_scale for name in names}):
        upscalers = {
            name: load_upscaler(name, scale=scale, device=device)
            for name in dict.fromkeys([BASELINE, *names])
            if name == BASELINE or catalog()[name].default_scale == scale
        }
        hardware = {name: describe_hardware({name: upscaler}) for name, upscaler in upscalers.items()}
        for folder, quality in product(folders, qualities):
            source = SourceModel(quality=quality)
            measures = None if quality is None else ("psnr_y",)
            scores = evaluate(upscalers, image_files(folder), scale, source=source, measures=measures).models
            measured = _load_metrics()
            for name in names:
                if name in scores and catalog()[name].default_scale == scale:
                    card = measured.setdefault(name, {})
                    if quality is None:
                        card.setdefault("metrics", {})[folder.name] = card_metrics(scores[name])
                    gains = card.setdefault("gains", {}).setdefault(folder.name, {})
                    gains[source.label] = round(scores[name].gain["psnr_y"].mean, 2)
                    card["computed_on"] = hardware[name]
            _save_metrics(measured)  # after each set, since measuring takes an hour and may be interrupted


def measure_precision(folder: Path, names: Sequence[str], count: int | None) -> None:
    """Measure each network's loss of PSNR-Y in 16 bits against fp32, in dB, mean over a folder's images.

    CPUs without 16-bit arithmetic emulate it, slowly and with the same rounding.
    """
    for name in names:
        if catalog()[name].kind is ModelKind.INTERPOLATION:
            continue
        scale, psnr = catalog()[name].default_scale, {}
        for precision in PRECISIONS:
            upscalers = {BASELINE: load_upscaler(BASELINE, scale=scale)}
            upscalers[name] = load_upscaler(name, scale=scale, device="cpu", precision=precision)
            scores = evaluate(upscalers, image_files(folder, count), scale, measures=("psnr_y",)).models[name]
            psnr[precision] = scores.summary["psnr_y"].mean
        measured = _load_metrics()
        measured.setdefault(name, {})["precision_loss"] = {
            precision: round(psnr["fp32"] - value, 3) for precision, value in psnr.items() if precision != "fp32"
        }
        _save_metrics(measured)


def _load_metrics() -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads(METRICS.read_text(encoding="utf-8")) if METRICS.exists() else {}
    return metrics


def _save_metrics(measured: Mapping[str, Any]) -> None:
    for card in measured.values():
        for name, gains in card.get("gains", {}).items():
            card["gains"][name] = dict(sorted(gains.items(), key=lambda pair: _sort_key(pair[0])))
    text = json.dumps(dict(sorted(measured.items())), indent=1)
    METRICS.write_text(text + "\n", encoding="utf-8")
    model_catalog.cache_clear()


def _sort_key(label: str) -> int:
    """Sort sources from uncompressed to the lowest quality."""
    return -101 if label == NOT_COMPRESSED else -int(label.removeprefix("Q"))


def gains_table(cards: Sequence[ModelCard]) -> str:
    """Return gains over bicubic by the source's compression, with a row per model and set, as Markdown."""
    labels = sorted({label for card in cards for gains in card.gains.values() for label in gains}, key=_sort_key)
    lines = [_line(["model", "set", *labels]), "|---" * (len(labels) + 2) + "|"]
    for card in cards:
        for name, gains in sorted(card.gains.items()):
            cells = [format(gains[label], "+.2f") if label in gains else "" for label in labels]
            scale = f", ×{card.default_scale}"
            lines.append(_line([f"`{card.name}`{scale}", name, *cells]))
    return "\n".join(lines)


def _computed_on(cards: Sequence[ModelCard]) -> str:
    return " ".join(dict.fromkeys(card.computed_on for card in cards if card.computed_on))


def write() -> None:
    """Write the tables into their pages."""
    shipped = [card for card in catalog().values() if not card.imported and card.gains]
    recommended = [card for card in shipped if card.effort]
    _replace_table(PAGE, _SYSTEMS, render())
    _replace_table(PAGE, _GAINS, f"{gains_table(shipped)}\n\n{_computed_on(shipped)}")
    _replace_table(README, _GAINS, f"{gains_table(recommended)}\n\n{_computed_on(recommended)}")


def _replace_table(page: Path, markers: tuple[str, str], table: str) -> None:
    begin, end = markers
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="folders of held-out images, one per set")
    parser.add_argument("--models", help="catalog names, separated by commas (default: all)")
    parser.add_argument("--qualities", default=_QUALITIES, help=f"JPEG qualities of the source (default {_QUALITIES})")
    parser.add_argument("--precision", action="store_true", help="measure the loss of 16 bits, on the first folder")
    parser.add_argument("--count", type=int, help="images for --precision (default: all)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    names = options.models.split(",") if options.models else [c.name for c in catalog().values() if not c.imported]
    if options.images and options.precision:
        measure_precision(options.images[0], names, options.count)
    elif options.images:
        qualities = [None if label == NOT_COMPRESSED else int(label) for label in options.qualities.split(",")]
        measure(options.images, names, options.device, qualities)
    write()
    sys.stdout.write(f"{PAGE}\n{README}\n")


if __name__ == "__main__":
    main()
