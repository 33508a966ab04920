"""`slidelift models`: the models on offer; import one, remove one."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slidelift.models.errors import ModelError
from slidelift.models.zoo.catalog import catalog, damaged_cards
from slidelift.service.commands import arguments
from slidelift.service.commands.terminal import say, tell
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, ServiceError


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    models = commands.add_parser("models", help="the models on offer; import one, remove one")
    models.add_argument("--json", action="store_true")
    models.set_defaults(command=_list)
    actions = models.add_subparsers(metavar="ACTION", help="list them, where none is given")

    adopt = actions.add_parser("import", help="put a file of weights on offer under a name")
    adopt.add_argument("file", type=Path, metavar="FILE", help=".safetensors, .pth or .pt")
    adopt.add_argument("--name", help="default: architecture, scale and fingerprint")
    adopt.add_argument("--scale", type=arguments.whole, metavar="N", help="where the weights do not tell it")
    adopt.add_argument("--licence", metavar="TEXT", help="under which the weights may be used")
    adopt.add_argument(
        "--source-mpp", type=_mpp_range, metavar="LOW,HIGH", help="µm per pixel of the sources it was trained for"
    )
    adopt.set_defaults(command=_import)

    remove = actions.add_parser("remove", help="take an imported model off the offer and delete its files")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(command=_remove)


def _list(options: argparse.Namespace) -> int:
    if options.json:
        tell(json.dumps([asdict(card) for card in catalog().values()], indent=2))
    else:
        for card in catalog().values():
            scales = ", ".join(f"x{scale}" for scale in card.scales)
            mark = f" (auto, {card.effort})" if card.effort else ""
            tell(f"{card.name}{mark}: {scales}; {card.description}")
        tell(
            "or a file of weights: .safetensors, .pth (RealESRGAN_x4plus.pth, realesr-general-x4v3.pth and their kind)"
        )
    for wrong in damaged_cards().values():
        say(f"error: {wrong}")
    return EXIT_FAILED if damaged_cards() else EXIT_DONE


def _import(options: argparse.Namespace) -> int:
    from slidelift.models.zoo.imports import import_model

    facts = {"licence": options.licence, "source_mpp": options.source_mpp}
    try:
        card = import_model(options.file, name=options.name, scale=options.scale, **facts)
    except ModelError as error:
        raise _told(error) from error
    tell(f"{card.name}: {card.architecture}, x{card.default_scale}, {card.parameters} parameters")
    for warning in card.warnings:
        say(f"warning: {warning}")
    say(f"use it by its name: slidelift upscale SLIDE OUT --model {card.name}")
    return EXIT_DONE


def _remove(options: argparse.Namespace) -> int:
    from slidelift.models.zoo.imports import remove_model

    try:
        remove_model(options.name)
    except ModelError as error:
        raise _told(error) from error
    return EXIT_DONE


def _told(error: ModelError) -> ServiceError:
    from slidelift.service.pipeline.failures import describe

    return ServiceError(describe(error))


def _mpp_range(text: str) -> tuple[float, float]:
    try:
        low, high = (arguments.positive(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not LOW,HIGH in µm per pixel") from None
    if low > high:
        raise argparse.ArgumentTypeError(f"{text}: the lower limit comes first")
    return low, high
