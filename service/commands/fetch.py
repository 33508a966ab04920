"""`slidelift fetch`: download and verify the result of a job."""

import argparse
from pathlib import Path
from typing import Any

from slidelift.service.commands import remote
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE


def add(commands: Any) -> None:
    """Add the command to the parser."""
    fetch = commands.add_parser(
        "fetch",
        help="download a job's result from a service",
        description="Download a job's result and verify its SHA-256. Run the same command again to continue an "
        "interrupted download. The file's name is printed.",
    )
    fetch.add_argument("job", metavar="JOB", help="id of the job")
    fetch.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="file or folder (default: a file named by the job's id, here)"
    )
    fetch.add_argument(
        "--report", action="store_true", help="also download the report (JSON and HTML) and the tissue outlines"
    )
    fetch.add_argument("--wait", action="store_true", help="wait until the job has ended")
    remote.add_service(fetch)
    fetch.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    with remote.connect(options) as client:
        job = client.job(options.job)
        if options.wait and not job.is_ended:
            try:
                job = remote.follow(client, job.id, job.id)
            except KeyboardInterrupt:
                print_message("the job continues on the service; run the same command again to wait for it")
                raise
            if job.state != "succeeded":
                return remote.exit_code(job)
        target: Path = options.out or Path()
        if target.is_dir():
            target /= f"{options.job}{job.result_suffix}"
        remote.fetch(client, job, target, with_report=options.report)
    print_result(str(target))
    return EXIT_DONE
