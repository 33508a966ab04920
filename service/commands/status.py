"""`slidelift status`: show the state of a service's jobs."""

import argparse
from itertools import islice
from typing import TYPE_CHECKING, Any

from slidelift.service.commands import arguments, remote
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER

if TYPE_CHECKING:
    from slidelift.service.client import Client, Job

_STATES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
_HEAD = ("job", "state", "tiles", "tiles/s", "left", "slide", "error")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    status = commands.add_parser(
        "status", help="show the state of jobs", description="Show the state of a service's jobs."
    )
    status.add_argument("jobs", nargs="*", metavar="JOB", help="ids of jobs (default: the newest jobs)")
    status.add_argument("--state", choices=_STATES, help="show only jobs in this state")
    status.add_argument(
        "--limit", type=arguments.whole, default=50, metavar="N", help="show at most N jobs (default 50)"
    )
    status.add_argument(
        "--follow", action="store_true", help="wait until the jobs have ended; the exit code is that of their errors"
    )
    status.add_argument("--json", action="store_true", help="print the jobs as JSON")
    remote.add_service(status)
    status.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    with remote.connect(options) as client:
        if options.jobs:
            jobs = [client.job(job_id) for job_id in options.jobs]
        else:
            jobs = list(islice(client.jobs(state=options.state), options.limit))
        if options.follow:
            jobs = _wait_for_all(client, jobs)
    if options.json:
        print_result(remote.as_json([remote.job_values(job) for job in jobs]))
    else:
        for line in _table(jobs):
            print_result(line)
    if not options.follow:
        return EXIT_DONE
    codes = {remote.exit_code(job) for job in jobs}
    return next((code for code in (EXIT_FAILED, EXIT_USER) if code in codes), EXIT_DONE)


def _wait_for_all(client: "Client", jobs: "list[Job]") -> "list[Job]":
    try:
        return [job if job.is_ended else remote.follow(client, job.id, job.id) for job in jobs]
    except KeyboardInterrupt:
        print_message("the jobs continue on the service; run the same command again to wait for them")
        raise


def _table(jobs: "list[Job]") -> list[str]:
    rows = [_HEAD, *map(_row, jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(job: "Job") -> tuple[str, ...]:
    progress = job.progress
    is_running = job.state == "running"
    return (
        job.id,
        job.state,
        f"{progress.tiles_done}/{progress.tiles_total}" if progress.tiles_total else "",
        f"{progress.tiles_per_second:.1f}" if is_running and progress.tiles_per_second else "",
        _duration(progress.eta_seconds) if is_running and progress.eta_seconds is not None else "",
        job.slide,
        f"{job.error.code}: {job.error.detail}" if job.error else "",
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
