"""`slidelift models`: list, import and remove models."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slidelift.models.errors import ModelError
from slidelift.models.zoo.catalog import catalog, damaged_cards
from slidelift.service.commands import arguments
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, ServiceError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    models = commands.add_parser("models", help="list, import and remove models")
    models.add_argument("--json", action="store_true", help="print as JSON")
    models.set_defaults(command=_list)
    actions = models.add_subparsers(metavar="ACTION", help="without an action, the models are listed")

    adopt = actions.add_parser("import", help="add a file of weights to the models")
    adopt.add_argument("file", type=Path, metavar="FILE", help=".safetensors, .pth or .pt")
    adopt.add_argument("--name", help="name of the model (default: architecture, scale and fingerprint)")
    adopt.add_argument("--scale", type=arguments.whole, metavar="N", help="scale, if the weights do not determine it")
    adopt.add_argument("--licence", metavar="TEXT", help="licence of the weights")
    adopt.add_argument(
        "--source-mpp", type=_mpp_range, metavar="LOW,HIGH", help="range of µm per pixel that the model was trained for"
    )
    adopt.set_defaults(command=_import)

    remove = actions.add_parser("remove", help="remove an imported model and delete its files")
    remove.add_argument("name", metavar="NAME", help="name of an imported model")
    remove.set_defaults(command=_remove)


def _list(options: argparse.Namespace) -> int:
    if options.json:
        print_result(json.dumps([asdict(card) for card in catalog().values()], indent=2))
    else:
        for card in catalog().values():
            scales = ", ".join(f"x{scale}" for scale in card.scales)
            mark = f" (auto, {card.effort})" if card.effort else ""
            print_result(f"{card.name}{mark}: {scales}; {card.description}")
        print_result(
            "or a file of weights: .safetensors, .pth (such as RealESRGAN_x4plus.pth or realesr-general-x4v3.pth)"
        )
    for damage in damaged_cards().values():
        print_message(f"error: {damage}")
    return EXIT_FAILED if damaged_cards() else EXIT_DONE


def _import(options: argparse.Namespace) -> int:
    from slidelift.models.zoo.imports import import_model

    facts = {"licence": options.licence, "source_mpp": options.source_mpp}
    try:
        card = import_model(options.file, name=options.name, scale=options.scale, **facts)
    except ModelError as error:
        raise _service_error(error) from error
    print_result(f"{card.name}: {card.architecture}, x{card.default_scale}, {card.parameters} parameters")
    for warning in card.warnings:
        print_message(f"warning: {warning}")
    print_message(f"to use it: slidelift upscale SLIDE OUT --model {card.name}")
    return EXIT_DONE


def _remove(options: argparse.Namespace) -> int:
    from slidelift.models.zoo.imports import remove_model

    try:
        remove_model(options.name)
    except ModelError as error:
        raise _service_error(error) from error
    return EXIT_DONE


def _service_error(error: ModelError) -> ServiceError:
    from slidelift.service.pipeline.failures import describe

    return ServiceError(describe(error))


def _mpp_range(text: str) -> tuple[float, float]:
    try:
        low, high = (arguments.positive(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not LOW,HIGH in µm per pixel") from None
    if low > high:
        raise argparse.ArgumentTypeError(f"{text}: the lower limit must come first")
    return low, high
