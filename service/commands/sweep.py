"""`slidelift sweep`: train a recipe at several levels of corruption, as in Upadhyay and Awate 2019."""

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.commands.train import add_settings
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from slidelift.models.training.sweep import Row

_MEASURES = ("psnr_y", "ms_ssim", "qilv", "rrmse")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    sweep = commands.add_parser(
        "sweep",
        help="train a recipe at several levels of corruption and exponents q",
        description="Train RECIPE once for every share of corrupted training crops and every exponent q of its "
        "quasi-norms, score each on held-out images, and write sweep.csv into DIR. Finished runs are not repeated.",
    )
    sweep.add_argument(
        "recipe", metavar="RECIPE", help="name of a recipe, such as srgan-sqe; see `slidelift train --list`"
    )
    sweep.add_argument("--images", type=Path, nargs="+", required=True, metavar="DIR", help="folders of sharp images")
    sweep.add_argument("--held-out", type=Path, required=True, metavar="DIR", help="folder of images for scoring")
    sweep.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the runs and sweep.csv")
    sweep.add_argument(
        "--corruption",
        type=_numbers,
        default="0,0.1,0.3,0.5",
        metavar="LIST",
        help="shares of corrupted crops (default 0,0.1,0.3,0.5)",
    )
    sweep.add_argument("--q", type=_numbers, default="0.5", metavar="LIST", help="exponents q (default 0.5)")
    add_settings(sweep)
    sweep.set_defaults(command=_run)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a list such as 0,0.1,0.3") from None


def _run(options: argparse.Namespace) -> int:
    from slidelift.models.evaluate import BASELINE, card_metrics, evaluate
    from slidelift.models.image_files import image_files
    from slidelift.models.inference import NetworkUpscaler
    from slidelift.models.training import sweep
    from slidelift.models.upscaler import load_upscaler
    from slidelift.models.zoo.weights import load_weights
    from slidelift.service.commands.training_run import read_images, train

    experiment = sweep.cells(options.recipe, options.corruption, options.q, options.set or (), smoke=options.smoke)
    scale = experiment[0].recipe.scale
    files = image_files(options.held_out)
    images = read_images(options.images, experiment[0].recipe, options.device)

    def train_cell(cell: sweep.Cell, folder: Path) -> Path | None:
        return train(cell.recipe, images, folder, device=options.device, checkpoint_seconds=options.checkpoint_seconds)

    def score(weights: Path) -> dict[str, float]:
        loaded = load_weights(weights, self_test=False)
        trained = NetworkUpscaler.from_weights(loaded, name=loaded.name, device=options.device, precision="auto")
        upscalers = {BASELINE: load_upscaler(BASELINE, scale=scale), trained.name: trained}
        found = card_metrics(evaluate(upscalers, files, scale).models[trained.name])
        return {name: found[name] for name in _MEASURES}

    rows: list[sweep.Row] = []
    for row in sweep.run(experiment, train_cell, score, options.out):
        rows.append(row)
        if row.failure:
            print_message(f"error: {row.cell.folder}: {row.failure}")
        _write(options.out / "sweep.csv", [_values(one) for one in rows])
    for one in rows:
        print_result(" | ".join(f"{name} {value}" for name, value in _values(one).items()))
    if len(rows) < len(experiment):
        print_message("interrupted; run the same command again to continue")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(row.failure for row in rows) else EXIT_DONE


def _values(row: "Row") -> dict[str, float | str]:
    q = {} if row.cell.q is None else {"q": row.cell.q}
    return {"corruption": row.cell.corruption, **q, **{name: row.measures.get(name, "") for name in _MEASURES}}


def _write(path: Path, rows: list[dict[str, float | str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
