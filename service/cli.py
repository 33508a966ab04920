"""The command line: info, upscale, models, doctor, serve, worker.

Exit codes: 0 done; 2 the request or its slide must be changed by the user; 1 anything else; 130 interrupted.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER, Cancelled, ServiceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except Cancelled:
        return EXIT_INTERRUPTED
    except ServiceError as error:
        say(f"error: {error.problem.detail}")
        return error.problem.exit_code
    except BrokenPipeError:
        return EXIT_FAILED
    except ValueError as error:
        if type(error).__name__ != "ValidationError":  # pydantic's: a setting is wrong; imported by `serve` alone
            raise
        say(f"error: {_settings_said(error)}")
        return EXIT_USER
    except OSError as error:
        say(f"error: {error.filename or ''}: {error.strerror or error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED


def _settings_said(error: Any) -> str:
    wrong = error.errors(include_url=False)[0]
    return f"setting {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}, not {wrong['input']!r}"


def say(text: str) -> None:
    """A line for the person at the terminal; standard output is for results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def tell(text: str) -> None:
    """A line of result."""
    print(text, flush=True)  # noqa: T201


def _info(options: argparse.Namespace) -> int:
    from service.runner import probe

    facts = probe(options.slide)
    if options.json:
        tell(json.dumps(facts, indent=2))
        return EXIT_DONE
    mpp = "unknown" if facts["mpp"] is None else f"{facts['mpp'][0]:.6g} x {facts['mpp'][1]:.6g} µm per pixel"
    objective = "unknown" if facts["objective"] is None else f"{facts['objective']:g}x"
    tell(f"{options.slide.name}: {facts['width']}x{facts['height']} px, {mpp}, objective {objective}")
    tell(f"  vendor {facts['vendor'] or 'unknown'}, read by {facts['reader']}")
    for number, level in enumerate(facts["levels"]):
        tell(f"  level {number}: {level['width']}x{level['height']}, downsample {level['downsample']:.4g}")
    for warning in facts["warnings"]:
        tell(f"  warning: {warning}")
    return EXIT_DONE


def _upscale(options: argparse.Namespace) -> int:
    from service.batch import upscale_all

    return upscale_all(options)


def _models(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from models.zoo.catalog import DEFAULT_MODEL, catalog

    if options.json:
        tell(json.dumps([asdict(card) for card in catalog().values()], indent=2))
        return EXIT_DONE
    for card in catalog().values():
        scales = ", ".join(f"x{scale}" for scale in card.scales)
        mark = " (default)" if card.name == DEFAULT_MODEL else ""
        tell(f"{card.name}{mark}: {scales}; {card.description}")
    tell("or a file of weights: .safetensors, .pth (RealESRGAN_x4plus.pth, realesr-general-x4v3.pth and their kind)")
    return EXIT_DONE


def _doctor(_options: argparse.Namespace) -> int:
    from service.doctor import examine

    findings = examine()
    for finding in findings:
        tell(f"{'ok     ' if finding.ok else 'MISSING'} {finding.subject}: {finding.word}")
    return EXIT_DONE if all(finding.ok for finding in findings) else EXIT_FAILED


def _serve(options: argparse.Namespace) -> int:
    from service import together
    from service.settings import Settings

    given = {"host": options.host, "port": options.port, "data_dir": options.data_dir}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})
    return together.serve_alone(settings) if options.no_worker else together.serve_with_worker(settings)


def _worker(options: argparse.Namespace) -> int:
    from service import worker
    from service.settings import Settings
    from service.together import end_with_parent

    if options.with_parent:
        end_with_parent()
    return worker.main(Settings(**({"data_dir": options.data_dir} if options.data_dir else {})))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slidelift", description="Super-resolution for whole-slide images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="what a slide says of itself")
    info.add_argument("slide", type=Path, metavar="SLIDE")
    info.add_argument("--json", action="store_true")
    info.set_defaults(command=_info)

    upscale = commands.add_parser(
        "upscale",
        help="upscale slides into pyramids",
        description="Upscale one slide into OUT, or several into a folder OUT. The suffix of OUT names the format: "
        ".ome.tiff, .ome.tif or .ome.zarr; in a folder it is .ome.tiff. A killed run continues when called again.",
        epilog="Exit codes: 0 done; 2 the request or its slide must be changed; 1 anything else; 130 interrupted.",
    )
    upscale.add_argument("slides", type=Path, nargs="+", metavar="SLIDE")
    upscale.add_argument("out", type=Path, metavar="OUT")
    upscale.add_argument("--model", default="compact-x4", metavar="NAME|FILE", help="see `slidelift models`")
    upscale.add_argument("--mpp", type=_positive, metavar="MPP", help="the source's µm per pixel, given or confirmed")
    upscale.add_argument("--target-mpp", type=_positive, metavar="MPP", help="wanted µm per pixel of the result")
    upscale.add_argument("--level", type=int, metavar="N", help="source level (default: by --target-mpp, else 0)")
    upscale.add_argument("--region", type=_region, metavar="X,Y,W,H", help="in level-0 pixels")
    upscale.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    upscale.add_argument(
        "--entropy", type=_entropy, metavar="H", help="least entropy of tissue in bits; 0 rejects nothing (default 3)"
    )
    upscale.add_argument(
        "--quality", type=_quality, default=90, metavar="Q", help="JPEG quality, 1 to 100 (default 90)"
    )
    upscale.add_argument(
        "--on-bad-tile",
        default="fail",
        choices=("fail", "mark"),
        help="a tile that can't be decoded: fail, or resample it from a coarser level and list it in the report",
    )
    upscale.add_argument("--json", action="store_true", help="the report on standard output")
    upscale.set_defaults(command=_upscale)

    models = commands.add_parser("models", help="the models on offer")
    models.add_argument("--json", action="store_true")
    models.set_defaults(command=_models)

    doctor = commands.add_parser("doctor", help="what device, what decoders, what is missing")
    doctor.set_defaults(command=_doctor)

    serve = commands.add_parser("serve", help="run the REST service: API and worker")
    serve.add_argument("--host", help="default 127.0.0.1")
    serve.add_argument("--port", type=int, help="default 8000")
    serve.add_argument("--data-dir", type=Path, metavar="DIR", help="default ./slidelift-data")
    serve.add_argument("--no-worker", action="store_true", help="the API alone; workers run elsewhere")
    serve.set_defaults(command=_serve)

    worker = commands.add_parser("worker", help="run one more worker on a data folder")
    worker.add_argument("--data-dir", type=Path, metavar="DIR")
    worker.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    worker.set_defaults(command=_worker)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _entropy(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 8:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 8 bits")
    return value


def _quality(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 100")
    return value


def _region(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not X,Y,WIDTH,HEIGHT in whole pixels") from None
    return x, y, width, height


if __name__ == "__main__":
    sys.exit(main())
