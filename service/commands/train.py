"""`slidelift train`: train a network by a recipe on folders of sharp images."""

import argparse
from pathlib import Path
from typing import Any

from slidelift.service.commands import arguments
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE, EXIT_INTERRUPTED


def add(commands: Any) -> None:
    """Add the command to the parser."""
    train = commands.add_parser(
        "train",
        help="train a network by a recipe",
        description="Train by RECIPE, a name from `--list` or a TOML file, on sharp images at the target's µm per "
        "pixel. The run's folder holds the log (CSV), the checkpoint and, at the end, the weights. Run the "
        "same command again to continue an interrupted run; it ends with the same weights.",
    )
    train.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of a recipe, or a TOML file")
    train.add_argument("--list", action="store_true", help="list the recipes")
    train.add_argument("--images", type=Path, nargs="+", metavar="DIR", help="folders of sharp images")
    train.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default training-runs/RECIPE)")
    add_settings(train)
    train.set_defaults(command=_run)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all training commands share."""
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="change a value of the recipe, such as stages.0.batch=8"
    )
    parser.add_argument("--smoke", action="store_true", help="shorten the recipe to a few seconds, to try it")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--checkpoint-seconds",
        type=arguments.positive,
        default=60,
        metavar="S",
        help="seconds between checkpoints (default 60)",
    )


def _run(options: argparse.Namespace) -> int:
    from slidelift.models.errors import RecipeError
    from slidelift.models.training import recipe as recipes

    if options.list:
        for name in recipes.names():
            print_result(f"{name}: {recipes.load(name).title}")
        return EXIT_DONE
    if options.recipe is None or options.images is None:
        raise RecipeError("a RECIPE and --images DIR are needed; --list shows the recipes")
    from slidelift.service.commands.training_run import read_images, train

    recipe = recipes.load(options.recipe, options.set or (), smoke=options.smoke)
    out = options.out or Path("training-runs") / recipe.name
    images = read_images(options.images, recipe, options.device)
    weights = train(recipe, images, out, device=options.device, checkpoint_seconds=options.checkpoint_seconds)
    if weights is None:
        print_message(f"interrupted; run the same command again to continue from {out}")
        return EXIT_INTERRUPTED
    print_result(str(weights))
    return EXIT_DONE
