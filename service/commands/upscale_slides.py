"""Run of `slidelift upscale`: each slide in the runner, with a progress bar, a report and an exit code."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slidelift.durable import write_atomically
from slidelift.service.commands import arguments
from slidelift.service.commands.signals import signals_cancel
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER, Cancelled, ServiceError, refusal
from slidelift.service.pipeline.failures import describe
from slidelift.service.pipeline.progress import CancelToken, Progress, Stage
from slidelift.service.pipeline.report import Report, report_text
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.targets import REPORT, companion, refuse_inputs, signed_report
from slidelift.service.processes.runner import Runner, probe
from slidelift.wsi.errors import RoiError, WsiError
from slidelift.wsi.roi import Roi
from slidelift.wsi.suffixes import SUFFIXES


def upscale_all(options: argparse.Namespace) -> int:
    """Upscale every slide and return the exit code; a slide that fails does not stop the others."""
    requests = _requests(options)
    cancel = CancelToken()
    outcomes = []
    with signals_cancel(cancel), Runner() as runner:
        for request in requests:
            outcomes.append(_upscale_one(request, runner, cancel))
    if options.json:
        reports = [outcome.report for outcome in outcomes]
        print_result(json.dumps(reports if len(reports) > 1 else reports[0], indent=2))
    codes = {outcome.exit_code for outcome in outcomes}
    return next((code for code in (EXIT_FAILED, EXIT_USER) if code in codes), EXIT_DONE)


@dataclass(frozen=True, slots=True)
class _Outcome:
    exit_code: int
    report: dict[str, Any]


def _requests(options: argparse.Namespace) -> list[UpscaleRequest]:
    out = Path(options.out)
    outputs = _outputs(options.slides, options.out)
    inputs = dict.fromkeys(options.slides, "a slide to be upscaled")
    inputs[Path(options.model)] = "the file of weights"
    if options.roi:
        inputs[options.roi] = "the region of interest"
    for output in outputs:
        refuse_inputs(output, inputs)
    roi = _roi(options.roi) if options.roi else None
    if out not in outputs:
        _make_folder(out)
    return [
        UpscaleRequest(
            slide=slide,
            output=output.absolute(),
            device=options.device,
            scheduler=options.scheduler,
            roi=roi,
            **arguments.upscale_options(options),
        )
        for slide, output in zip(options.slides, outputs, strict=True)
    ]


def _outputs(slides: Sequence[Path], out: str) -> list[Path]:
    """Output file of each slide: `out` itself, or a file in that folder."""
    if not out:
        raise refusal("request.output", "OUT is empty; give a file or a folder (. for the current one)")
    path = Path(out)
    if path.name.lower().endswith(SUFFIXES):
        if len(slides) > 1:
            raise refusal("request.output", f"{path.name} is a file; give a folder as OUT for several slides")
        return [path]
    names_folder = path.is_dir() or out.endswith(os.sep) or not path.suffix
    if not names_folder and len(slides) == 1:
        raise refusal(
            "request.format",
            f"{path.name}: the output's name must end in one of {', '.join(SUFFIXES)}, or be a folder (end it with "
            f"{os.sep})",
        )
    outputs = [path / f"{slide.stem}.ome.tiff" for slide in slides]
    duplicates = [name for name, count in Counter(output.name for output in outputs).items() if count > 1]
    if duplicates:
        raise refusal("request.output", f"two slides would be written to {duplicates[0]}; upscale them one at a time")
    return outputs


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise refusal("request.output", f"{out} is a file; give a folder as OUT") from None
    except OSError as error:
        raise refusal(
            "request.output", f"{out}: the folder can't be created ({error.strerror}); choose another OUT"
        ) from error


def _roi(path: Path) -> Roi:
    try:
        return Roi.read(path)
    except RoiError as error:
        raise refusal("request.roi", str(error)) from error
    except OSError as error:
        raise refusal("request.roi", f"{path}: {error.strerror}") from error


def _upscale_one(request: UpscaleRequest, runner: Runner, cancel: CancelToken) -> _Outcome:
    try:
        probe(request.slide)
        cancel.raise_if_cancelled()
        with _Bar(request.slide.name) as bar:
            report = runner.run(request, bar.show, cancel)
        answer = _answer(request, report)
        write_atomically(companion(request.output, REPORT), report_text(answer))
    except Cancelled:
        print_message(
            f"{request.slide.name}: interrupted; run the same command again to continue from the last finished stripe"
        )
        raise
    except (ServiceError, WsiError, OSError) as error:
        failure = describe(error)
        print_message(f"error: {failure.detail}")
        return _Outcome(failure.exit_code, {"error": failure.as_dict()})
    _summarise(request, report)
    return _Outcome(EXIT_DONE, answer)


def _answer(request: UpscaleRequest, report: Report) -> dict[str, Any]:
    """The report with the paths of slide and result, signed."""
    values = report.as_dict()
    values["slide"]["path"], values["output"]["path"] = str(request.slide.absolute()), str(request.output)
    return signed_report(values)


def _summarise(request: UpscaleRequest, report: Report) -> None:
    out, tiles = report.output, report.tiles
    name = request.output.name
    print_message(f"{name}: {'warning: ' if tiles.few_enhanced else ''}{report.summary}")
    if report.model.chosen_because:
        print_message(f"{name}: {report.model.chosen_because}")
    for warning in report.warnings:
        print_message(f"warning: {warning}")
    if tiles.bad:
        print_message(f"warning: {len(tiles.bad)} tiles could not be read as they should; the report lists them")
    print_message(
        f"{name}: {out.width}x{out.height} px, {out.mpp[0]:.6g} µm per pixel; "
        f"{report.model.name}, {report.seconds:.1f} s"
    )


class _Bar:
    """Progress bar with tiles per second and remaining time; hidden if standard error is not a terminal."""

    def __init__(self, name: str) -> None:
        self._name, self._stage, self._resumed = name, Stage.OPENING, False
        self._bar = tqdm(desc=name, unit="tile", disable=None, dynamic_ncols=True)

    def show(self, progress: Progress) -> None:
        if progress.resumed_tiles and not self._resumed:
            self._resumed = True
            self._bar.initial = self._bar.n = progress.resumed_tiles
            print_message(
                f"{self._name}: continuing an interrupted run; {progress.resumed_tiles} of {progress.tiles_total} "
                "tiles are done"
            )
        if progress.stage is not self._stage:
            self._stage = progress.stage
            self._bar.set_description(f"{self._name} {progress.stage}")
        self._bar.total = progress.tiles_total or None
        self._bar.update(progress.tiles_done - self._bar.n)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
