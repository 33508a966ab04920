"""`slidelift fetch`: a job's result, whole and checked."""

import argparse
from pathlib import Path
from typing import Any

from slidelift.service.commands import remote
from slidelift.service.commands.terminal import say, tell
from slidelift.service.errors import EXIT_DONE


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    fetch = commands.add_parser(
        "fetch",
        help="download a job's result from a service",
        description="Download a job's result and compare its SHA-256. A download that broke off is continued when the "
        "command is called again. The file's name goes to standard output.",
    )
    fetch.add_argument("job", metavar="JOB", help="its id")
    fetch.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="a file, or a folder (default: the job's id in this folder)"
    )
    fetch.add_argument("--report", action="store_true", help="the report, a page and the tissue beside it")
    fetch.add_argument("--wait", action="store_true", help="until the job has ended")
    remote.add_service(fetch)
    fetch.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    with remote.connect(options) as client:
        job = client.job(options.job)
        if options.wait and not job.is_ended:
            try:
                job = remote.follow(client, job.id, job.id)
            except KeyboardInterrupt:
                say("the job goes on; the same command comes back to it")
                raise
            if job.state != "succeeded":
                return remote.exit_code(job)
        target: Path = options.out or Path()
        if target.is_dir():
            target /= f"{options.job}{job.result_suffix}"
        remote.fetch(client, job, target, with_report=options.report)
    tell(str(target))
    return EXIT_DONE
