"""`slidelift submit`: upload slides to a service, create jobs, and optionally wait for and fetch the results."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidelift.service.commands import arguments, remote
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER, ServiceError, refusal
from slidelift.service.pipeline.options import OPTION_NAMES

if TYPE_CHECKING:
    from slidelift.service.client import Client, Job

_SENT = (*OPTION_NAMES, "roi", "format")
_SUFFIXES = {None: ".ome.tiff", "ome-tiff": ".ome.tiff", "ome-zarr": ".ome.zarr.zip"}


def add(commands: Any) -> None:
    """Add the command to the parser."""
    submit = commands.add_parser(
        "submit",
        help="upscale slides on a service",
        description="Upload slides to a service and create a job for each; the job ids are printed, one per "
        "line. Run the same command again to continue an interrupted upload. The service chooses the values of options "
        "that are not given.",
        epilog="Exit codes: 0 done; 2 the request or its slide must be changed; 1 any other error; 130 interrupted.",
    )
    submit.add_argument("slides", type=Path, nargs="+", metavar="SLIDE", help="file, or folder of one DICOM slide")
    submit.add_argument("--model", metavar="NAME", help="model of the service (default auto: the recommended model)")
    arguments.add_upscale_options(submit, None)
    submit.add_argument(
        "--roi",
        type=_geojson,
        metavar="FILE",
        help="region of interest: GeoJSON polygons in level-0 pixels, as from QuPath",
    )
    submit.add_argument("--format", choices=("ome-tiff", "ome-zarr"), help="format of the result (default ome-tiff)")
    submit.add_argument("--wait", action="store_true", help="wait until the jobs have ended")
    submit.add_argument("--out", type=Path, metavar="DIR", help="wait, and download each result and its report to DIR")
    submit.add_argument("--json", action="store_true", help="print the jobs as JSON instead of their ids")
    remote.add_service(submit)
    submit.set_defaults(command=_run)


def _geojson(text: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(text).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} can't be read as GeoJSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text} holds no GeoJSON object")
    return value


class _Summary:
    """JSON and exit codes of all slides of one command."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._exit_codes = {EXIT_DONE}

    def add(self, job: "Job", *, exit_code: int = EXIT_DONE) -> None:
        self.entries.append(remote.job_values(job))
        self._exit_codes.add(exit_code)

    def add_failure(self, slide: Path, error: ServiceError | OSError) -> None:
        """Report an error of one slide; the other slides continue."""
        problem = error.problem if isinstance(error, ServiceError) else refusal("storage.unusable", str(error)).problem
        print_message(f"error: {slide.name}: {problem.detail}")
        self.entries.append({"slide_file": str(slide), "error": problem.as_dict()})
        self._exit_codes.add(problem.exit_code)

    @property
    def exit_code(self) -> int:
        return next((code for code in (EXIT_FAILED, EXIT_USER) if code in self._exit_codes), EXIT_DONE)


def _run(options: argparse.Namespace) -> int:
    targets = _targets(options)
    summary = _Summary()
    with remote.connect(options) as client:
        jobs = _create_jobs(client, options, summary)
        if options.wait or options.out:
            _wait_for_jobs(client, jobs, targets, summary)
        else:
            for _, job in jobs:
                summary.add(job)
    if options.json:
        print_result(remote.as_json(summary.entries))
    return summary.exit_code


def _create_jobs(client: "Client", options: argparse.Namespace, summary: _Summary) -> "list[tuple[Path, Job]]":
    jobs: list[tuple[Path, Job]] = []
    for slide in options.slides:
        try:
            job = _create_job(client, slide, options)
        except (ServiceError, OSError) as error:
            summary.add_failure(slide, error)
        except KeyboardInterrupt:
            _print_how_to_return(jobs)
            raise
        else:
            jobs.append((slide, job))
            if not options.json:
                print_result(job.id)
    return jobs


def _create_job(client: "Client", slide: Path, options: argparse.Namespace) -> "Job":
    with remote.bytes_bar(slide.name) as show:
        try:
            uploaded = client.upload(slide, on_progress=show)
        except KeyboardInterrupt:
            print_message(f"{slide.name}: run the same command again to continue the upload")
            raise
    for warning in uploaded.warnings:
        print_message(f"warning: {slide.name}: {warning}")
    given = {name: getattr(options, name) for name in _SENT if getattr(options, name) is not None}
    job = client.submit(uploaded.id, **given)
    print_message(f"{slide.name}: slide {uploaded.id}, job {job.id} is {job.state}")
    return job


def _wait_for_jobs(
    client: "Client", jobs: "list[tuple[Path, Job]]", targets: dict[Path, Path], summary: _Summary
) -> None:
    try:
        for slide, job in jobs:
            try:
                ended = _wait_for_job(client, slide, job, targets.get(slide))
            except (ServiceError, OSError) as error:
                summary.add_failure(slide, error)
            else:
                summary.add(ended, exit_code=remote.exit_code(ended))
    except KeyboardInterrupt:
        _print_how_to_return(jobs)
        raise


def _wait_for_job(client: "Client", slide: Path, job: "Job", target: Path | None) -> "Job":
    ended = remote.follow(client, job.id, slide.name)
    if target is not None and ended.state == "succeeded":
        remote.fetch(client, ended, target, with_report=True)
        print_message(f"{slide.name}: {target}")
    return ended


def _print_how_to_return(jobs: "list[tuple[Path, Job]]") -> None:
    if jobs:
        ids = " ".join(job.id for _, job in jobs)
        print_message(
            f"the jobs continue on the service; `slidelift status --follow {ids}` waits for them, and "
            "`slidelift fetch JOB` downloads a result"
        )


def _targets(options: argparse.Namespace) -> dict[Path, Path]:
    """Output file of each slide; checked before anything is uploaded."""
    out: Path | None = options.out
    if out is None:
        return {}
    if out.exists() and not out.is_dir():
        raise refusal("request.output", f"{out} is a file; --out must be a folder")
    targets = {slide: out / f"{slide.absolute().stem}{_SUFFIXES[options.format]}" for slide in options.slides}
    duplicates = [name for name, count in Counter(target.name for target in targets.values()).items() if count > 1]
    if duplicates or len(targets) < len(options.slides):
        raise refusal("request.output", "two slides would be written to one file; submit them one at a time")
    existing = [target for target in targets.values() if target.exists()]
    if existing:
        raise refusal("request.output", f"{existing[0]} already exists; choose another folder, or move the file away")
    out.mkdir(parents=True, exist_ok=True)
    return targets
