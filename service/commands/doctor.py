"""`slidelift doctor`: what device, what decoders, what is missing."""

import argparse
from typing import Any

from slidelift.service.commands.terminal import tell
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    doctor = commands.add_parser("doctor", help="what device, what decoders, what is missing")
    doctor.set_defaults(command=_run)


def _run(_options: argparse.Namespace) -> int:
    from slidelift.service.commands.diagnostics import examine

    findings = examine()
    for finding in findings:
        tell(f"{'ok     ' if finding.ok else 'MISSING'} {finding.subject}: {finding.word}")
    return EXIT_DONE if all(finding.ok for finding in findings) else EXIT_FAILED
