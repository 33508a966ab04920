"""`slidelift models`: the models on offer."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from models.zoo.catalog import DEFAULT_MODEL, catalog
from service.errors import EXIT_DONE
from service.terminal import tell


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    models = commands.add_parser("models", help="the models on offer")
    models.add_argument("--json", action="store_true")
    models.set_defaults(command=_list)


def _list(options: argparse.Namespace) -> int:
    if options.json:
        tell(json.dumps([asdict(card) for card in catalog().values()], indent=2))
        return EXIT_DONE
    for card in catalog().values():
        scales = ", ".join(f"x{scale}" for scale in card.scales)
        mark = " (default)" if card.name == DEFAULT_MODEL else ""
        tell(f"{card.name}{mark}: {scales}; {card.description}")
    tell("or a file of weights: .safetensors, .pth (RealESRGAN_x4plus.pth, realesr-general-x4v3.pth and their kind)")
    return EXIT_DONE
