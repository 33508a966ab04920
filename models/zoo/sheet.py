"""The table of all systems side by side in `docs/models.md`, and the measurements that it shows.

    python -m models.zoo.sheet                               write the table from the recipes and the cards
    python -m models.zoo.sheet --images DIR... [--models A,B] measure catalog models first, into `metrics.json`

A system is a recipe; it is shipped where a card of the catalog names that recipe.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from models.evaluate import BASELINE, evaluate, panel
from models.networks.back_projection import REACH
from models.networks.table import NETWORKS
from models.pictures import image_files
from models.training import recipe as recipes
from models.training.recipe import Recipe
from models.upscaler import load_upscaler
from models.zoo.catalog import METRICS, ModelCard, ModelKind, catalog, shelf

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "models.md"
_BEGIN, _END = "<!-- systems: python -m models.zoo.sheet -->", "<!-- end of systems -->"


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


def measure(folders: Sequence[Path], names: Sequence[str], device: str) -> None:
    """Score models of one scale after another on every folder, and keep the figures for their cards."""
    kept = json.loads(METRICS.read_text(encoding="utf-8")) if METRICS.exists() else {}
    for scale in sorted({catalog()[name].default_scale for name in names}):
        upscalers = {
            name: load_upscaler(name, scale=scale, device=device)
            for name in dict.fromkeys([BASELINE, *names])
            if name == BASELINE or catalog()[name].default_scale == scale
        }
        for folder in folders:
            for name, scores in evaluate(upscalers, image_files(folder), scale).models.items():
                if catalog()[name].default_scale == scale:
                    kept.setdefault(name, {})[folder.name] = panel(scores)
    METRICS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    shelf.cache_clear()


def write() -> None:
    """Put the table into its page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{render()}\n\n{_END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="folders of held-out images, one a set")
    parser.add_argument("--models", help="catalog names, separated by commas (default: all)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    shipped = [name for name, card in catalog().items() if not card.imported]
    if options.images:
        measure(options.images, options.models.split(",") if options.models else shipped, options.device)
    write()
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
