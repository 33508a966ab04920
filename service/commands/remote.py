"""Shared by the commands that call a service: address and token, progress bars, download of results."""

import argparse
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slidelift.service.commands.terminal import print_message
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, refusal

if TYPE_CHECKING:
    from slidelift.service.client import Client, Job

ADDRESS_VARIABLE, TOKEN_VARIABLE = "SLIDELIFT_SERVICE", "SLIDELIFT_TOKEN"


def add_service(command: argparse.ArgumentParser) -> None:
    """Add the arguments for the service's address and the access token."""
    command.add_argument(
        "--service", metavar="URL", help=f"address of the service (default ${ADDRESS_VARIABLE}, else this machine)"
    )
    command.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file with the access token (default: the variable ${TOKEN_VARIABLE}); there is no argument for the "
        "token itself, since every user of the machine can read command lines",
    )


def connect(options: argparse.Namespace) -> "Client":
    """Make a client from the arguments and the environment; raises ServiceError."""
    from slidelift.service.client import Client
    from slidelift.service.client.client import DEFAULT_ADDRESS
    from slidelift.service.client.connection import LOOPBACK

    address = options.service or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    token = _token(options)
    client = Client(address, token, on_wait=print_message)
    if token and address.startswith("http://") and urlsplit(address).hostname not in LOOPBACK:
        print_message("warning: the token and the slides are sent unencrypted; use https")
    return client


def fetch(client: "Client", job: "Job", target: Path, *, with_report: bool) -> Path:
    """Download a result with a progress bar, and optionally its report (JSON and HTML) and tissue outlines."""
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
    """Wait until a job has ended, with a progress bar, and print its warnings and error."""
    with _job_bar(name) as show:

        def on_change(job: "Job") -> None:
            show(job)
            if job.state == "paused":
                print_message(f"{name}: job {job.id} is paused; waiting until it is resumed")

        job = client.follow(job_id, on_change)
    for warning in job.warnings:
        print_message(f"warning: {name}: {warning}")
    if job.error is not None:
        print_message(f"error: {name}: {job.error.detail}")
    elif job.state != "succeeded":
        print_message(f"error: {name}: the job was {job.state}")
    return job


def exit_code(job: "Job") -> int:
    """The command line's exit code for a job that has ended."""
    if job.state == "succeeded":
        return EXIT_DONE
    return job.error.exit_code if job.error is not None else EXIT_FAILED


def job_values(job: "Job") -> dict[str, Any]:
    """Plain values of a job, for JSON."""
    from dataclasses import asdict

    return asdict(job)


def as_json(value: Any) -> str:
    """JSON of plain values and times."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=lambda moment: moment.isoformat())


@contextmanager
def bytes_bar(name: str) -> Iterator[Any]:
    """Progress bar of bytes; hidden if standard error is not a terminal."""
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
                raise refusal("request.invalid", f"{path}: other users can read the token; run chmod 600 {path}")
            return file.read().strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise refusal("request.invalid", f"{path}: {reason}; --token-file must name the file with the token") from error
