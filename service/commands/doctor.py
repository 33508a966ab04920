"""`slidelift doctor`: check the installation."""

import argparse
from typing import Any

from slidelift.service.commands.terminal import print_result
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED


def add(commands: Any) -> None:
    """Add the command to the parser."""
    doctor = commands.add_parser("doctor", help="check libraries, device, weights and service")
    doctor.set_defaults(command=_run)


def _run(_options: argparse.Namespace) -> int:
    from slidelift.service.commands.diagnostics import examine

    findings = examine()
    for finding in findings:
        print_result(f"{'ok     ' if finding.ok else 'MISSING'} {finding.subject}: {finding.detail}")
    return EXIT_DONE if all(finding.ok for finding in findings) else EXIT_FAILED
