"""`slidelift submit`: slides to a service, jobs asked for, and if wanted waited for and fetched."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidelift.service.commands import arguments, remote
from slidelift.service.commands.terminal import say, tell
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER, ServiceError, refusal

if TYPE_CHECKING:
    from slidelift.service.client import Client, Job

_OPTIONS = (
    "model",
    "effort",
    "mpp",
    "target_mpp",
    "level",
    "region",
    "roi",
    "format",
    "quality",
    "entropy",
    "on_bad_tile",
)
_SUFFIXES = {None: ".ome.tiff", "ome-tiff": ".ome.tiff", "ome-zarr": ".ome.zarr.zip"}


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    submit = commands.add_parser(
        "submit",
        help="have a service upscale slides",
        description="Upload slides to a service and ask for a job for each; the jobs' ids go to standard output, one a "
        "line. An upload that broke off is continued when the command is called again. What is not asked for "
        "is the service's to choose.",
        epilog="Exit codes: 0 done; 2 the request or its slide must be changed; 1 anything else; 130 interrupted.",
    )
    submit.add_argument(
        "slides", type=Path, nargs="+", metavar="SLIDE", help="a slide's file, or a folder of one DICOM slide"
    )
    submit.add_argument(
        "--model", metavar="NAME", help="a model that the service has (default auto: the recommended one)"
    )
    submit.add_argument(
        "--effort", choices=("fast", "balanced", "best"), help="what auto gives more weight to: time or the picture"
    )
    submit.add_argument(
        "--mpp", type=arguments.positive, metavar="MPP", help="the source's µm per pixel, given or confirmed"
    )
    submit.add_argument(
        "--target-mpp", type=arguments.positive, metavar="MPP", help="wanted µm per pixel of the result"
    )
    submit.add_argument("--level", type=int, metavar="N", help="source level (default: by --target-mpp, else 0)")
    submit.add_argument("--region", type=arguments.region, metavar="X,Y,W,H", help="in level-0 pixels")
    submit.add_argument("--roi", type=_geojson, metavar="FILE", help="GeoJSON of what is to be upscaled")
    submit.add_argument("--format", choices=("ome-tiff", "ome-zarr"), help="of the result (default ome-tiff)")
    submit.add_argument("--quality", type=arguments.quality, metavar="Q", help="JPEG quality, 1 to 100")
    submit.add_argument(
        "--entropy", type=arguments.entropy, metavar="H", help="least entropy of tissue in bits; 0 rejects nothing"
    )
    submit.add_argument("--on-bad-tile", choices=("fail", "mark"), help="what a tile that can't be decoded does")
    submit.add_argument("--wait", action="store_true", help="until the jobs have ended")
    submit.add_argument("--out", type=Path, metavar="DIR", help="wait, and fetch each result and its report to here")
    submit.add_argument("--json", action="store_true", help="the jobs as JSON, in the place of their ids")
    remote.add_service(submit)
    submit.set_defaults(command=_run)


def _geojson(text: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(text).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} can't be read as GeoJSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text} holds no GeoJSON object")
    return found


def _run(options: argparse.Namespace) -> int:
    targets = _targets(options)
    codes = {EXIT_DONE}
    answers: list[dict[str, Any]] = []
    with remote.connect(options) as client:
        asked: list[tuple[Path, Job]] = []
        for slide in options.slides:
            try:
                job = _ask(client, slide, options)
            except (ServiceError, OSError) as error:
                codes.add(_failed(slide, error, answers))
            else:
                asked.append((slide, job))
                if not options.json:
                    tell(job.id)
        try:
            for slide, job in asked:
                ended = job
                if options.wait or options.out:
                    try:
                        ended = _awaited(client, slide, job, targets.get(slide))
                        codes.add(remote.exit_code(ended))
                    except (ServiceError, OSError) as error:
                        codes.add(_failed(slide, error, answers))
                        continue
                answers.append(remote.told(ended))
        except KeyboardInterrupt:
            ids = " ".join(job.id for _, job in asked)
            say(f"the jobs go on; `slidelift status --follow {ids}` comes back to them, `slidelift fetch` to a result")
            raise
    if options.json:
        tell(remote.as_json(answers))
    return next((code for code in (EXIT_FAILED, EXIT_USER) if code in codes), EXIT_DONE)


def _targets(options: argparse.Namespace) -> dict[Path, Path]:
    """Where each result goes; looked at before anything is sent."""
    out: Path | None = options.out
    if out is None:
        return {}
    if out.exists() and not out.is_dir():
        raise refusal("request.output", f"{out}: a file; --out names a folder")
    targets = {slide: out / f"{slide.absolute().stem}{_SUFFIXES[options.format]}" for slide in options.slides}
    twice = [name for name, count in Counter(target.name for target in targets.values()).items() if count > 1]
    if twice or len(targets) < len(options.slides):
        raise refusal("request.output", "two slides would be written to one file; submit them one at a time")
    there = [target for target in targets.values() if target.exists()]
    if there:
        raise refusal("request.output", f"{there[0]}: is there already; choose another folder, or move it away")
    out.mkdir(parents=True, exist_ok=True)
    return targets


def _ask(client: "Client", slide: Path, options: argparse.Namespace) -> "Job":
    with remote.bytes_bar(slide.name) as show:
        try:
            uploaded = client.upload(slide, on_progress=show)
        except KeyboardInterrupt:
            say(f"{slide.name}: the same command continues the upload")
            raise
    for warning in uploaded.warnings:
        say(f"warning: {slide.name}: {warning}")
    wanted = {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}
    job = client.submit(uploaded.id, **wanted)
    say(f"{slide.name}: slide {uploaded.id}, job {job.id} is {job.state}")
    return job


def _awaited(client: "Client", slide: Path, job: "Job", target: Path | None) -> "Job":
    job = remote.follow(client, job.id, slide.name)
    if target is not None and job.state == "succeeded":
        remote.fetch(client, job, target, with_report=True)
        say(f"{slide.name}: {target}")
    return job


def _failed(slide: Path, error: ServiceError | OSError, answers: list[dict[str, Any]]) -> int:
    """Say what went wrong with one slide, so that the others go on."""
    problem = error.problem if isinstance(error, ServiceError) else refusal("storage.unusable", str(error)).problem
    say(f"error: {slide.name}: {problem.detail}")
    answers.append({"slide_file": str(slide), "error": problem.as_dict()})
    return problem.exit_code
