"""The command line: parses the arguments, runs one of `service.commands`, and returns an exit code.

Exit codes: 0 done; 2 the request or its slide must be changed by the user; 1 anything else; 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from slidelift.errors import SlideliftError
from slidelift.service.commands import (
    adopt,
    doctor,
    entropy,
    evaluate,
    fetch,
    info,
    models,
    patches,
    serve,
    status,
    submit,
    sweep,
    token,
    train,
    upscale,
)
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER, Cancelled, Problem, problem
from slidelift.service.jobs.errors import StoreError

_COMMANDS = (
    info,
    upscale,
    models,
    evaluate,
    patches,
    entropy,
    train,
    sweep,
    doctor,
    serve,
    adopt,
    token,
    submit,
    status,
    fetch,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except Cancelled:
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print_message("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILED
    except (SlideliftError, OSError) as error:
        found = _described(error)
        print_message(f"error: {found.detail}")
        if getattr(options, "json", None) is True:  # a string is the name of a JSON file
            print_result(json.dumps({"error": found.as_dict()}, indent=2))
        return found.exit_code
    except ValueError as error:
        kind = type(error).__name__  # pydantic's error for a wrong setting; only `serve` imports pydantic
        if kind not in ("ValidationError", "SettingsError"):
            raise
        print_message(f"error: {_settings_said(error) if kind == 'ValidationError' else error}")
        return EXIT_USER


def _described(error: Exception) -> Problem:
    if isinstance(error, StoreError):
        return problem("store.unavailable", str(error))
    from slidelift.service.pipeline.failures import describe

    return describe(error)


def _settings_said(error: Any) -> str:
    wrong = error.errors(include_url=False)[0]
    return f"setting {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}, not {wrong['input']!r}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slidelift", description="Super-resolution for whole-slide images.")
    parser.add_argument("--version", action="version", version=f"slidelift {version('slidelift')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
