"""What the commands that speak to a service share: its address, the token, bars, and where a result goes."""

import argparse
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slidelift.service.commands.terminal import say
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, refusal

if TYPE_CHECKING:
    from slidelift.service.client import Client, Job

ADDRESS_VARIABLE, TOKEN_VARIABLE = "SLIDELIFT_SERVICE", "SLIDELIFT_TOKEN"


def add_service(command: argparse.ArgumentParser) -> None:
    """Let a command be told which service, and which token."""
    command.add_argument(
        "--service", metavar="URL", help=f"the service's address (default ${ADDRESS_VARIABLE}, or this machine's)"
    )
    command.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"holds the access token (default: it is in ${TOKEN_VARIABLE}); never on the command line, which all see",
    )


def connect(options: argparse.Namespace) -> "Client":
    """Make a client of what the command was told; raises ServiceError."""
    from slidelift.service.client import Client
    from slidelift.service.client.client import DEFAULT_ADDRESS
    from slidelift.service.client.connection import LOOPBACK

    address = options.service or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    token = _token(options)
    client = Client(address, token, on_wait=say)
    if token and address.startswith("http://") and urlsplit(address).hostname not in LOOPBACK:
        say("warning: the token and the slides go over the network in the clear; use https")
    return client


def fetch(client: "Client", job: "Job", target: Path, *, with_report: bool) -> Path:
    """Download a result with a bar; beside it its report, as JSON and as a page, and the tissue's outlines."""
    from slidelift.durable import write_atomically
    from slidelift.service.pipeline.report import report_text
    from slidelift.service.pipeline.targets import (
        OUTLINES,
        PAGE,
        REPORT,
        companion,
        refuse_long_names,
        refuse_strangers,
        signed_report,
    )

    result = target.with_name(target.name.removesuffix(".zip"))
    if with_report:
        refuse_long_names(result)
        refuse_strangers(result)
    with bytes_bar(target.name) as show:
        client.download(job.id, target, show)
    if with_report:
        for name, content in (
            (REPORT, report_text(signed_report(client.report(job.id)))),
            (PAGE, client.report_page(job.id).encode("utf-8", "backslashreplace")),
            (OUTLINES, json.dumps(client.tissue(job.id)).encode()),
        ):
            write_atomically(companion(result, name), content)
    return target


def follow(client: "Client", job_id: str, name: str) -> "Job":
    """Wait for a job's end with a bar of its tiles, and say how it ended."""
    with _job_bar(name) as show:

        def heard(job: "Job") -> None:
            show(job)
            if job.state == "paused":
                say(f"{name}: job {job.id} is paused, and waited for until somebody resumes it")

        job = client.follow(job_id, heard)
    for warning in job.warnings:
        say(f"warning: {name}: {warning}")
    if job.error is not None:
        say(f"error: {name}: {job.error.detail}")
    elif job.state != "succeeded":
        say(f"error: {name}: the job was {job.state}")
    return job


def exit_code(job: "Job") -> int:
    """The command line's exit code for a job that has ended."""
    if job.state == "succeeded":
        return EXIT_DONE
    return job.error.exit_code if job.error is not None else EXIT_FAILED


def told(job: "Job") -> dict[str, Any]:
    """Plain values of a job, for JSON."""
    from dataclasses import asdict

    return asdict(job)


def as_json(found: Any) -> str:
    """JSON of plain values and times."""
    return json.dumps(found, indent=2, ensure_ascii=False, default=lambda moment: moment.isoformat())


@contextmanager
def bytes_bar(name: str) -> Iterator[Any]:
    """A bar of bytes; silent where nobody watches."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=None, dynamic_ncols=True) as bar:

        def show(arrived: int, total: int) -> None:
            bar.total = total
            bar.update(arrived - bar.n)

        yield show


@contextmanager
def _job_bar(name: str) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(desc=name, unit="tile", disable=None, dynamic_ncols=True) as bar:

        def show(job: "Job") -> None:
            stage = job.stage if job.state == "running" and job.stage else job.state
            bar.set_description(f"{name} {stage}", refresh=False)
            bar.total = job.progress.tiles_total or None
            bar.update(job.progress.tiles_done - bar.n)
            bar.refresh()

        yield show


def _token(options: argparse.Namespace) -> str | None:
    if options.token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    path: Path = options.token_file
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise refusal("request.invalid", f"{path}: others than you can read the token; chmod 600 {path}")
            return file.read().strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise refusal("request.invalid", f"{path}: {reason}; --token-file names the file of the token") from error
