"""Turns the output of a pipeline into the file that is downloaded."""

from collections.abc import Callable
from pathlib import Path

from slidelift.service.jobs.job import Result, ResultFormat
from slidelift.service.pipeline.report import Report
from slidelift.service.storage.disk import remove, size_and_sha256
from slidelift.service.storage.zip_folder import archive


class ResultChangedError(Exception):
    """The output on disk is not the one that was verified."""


def seal(output: Path, report: Report, output_format: ResultFormat, raise_if_cancelled: Callable[[], None]) -> Result:
    """Make the durable, hashed file that is downloaded; an OME-Zarr becomes one zip.

    Parameters
    ----------
    report
        Report of the verified output, with its hash. The output is read again, to detect changes that
        were made after the verification and that keep the file's size.
    raise_if_cancelled
        Called between chunks.

    Raises
    ------
    ResultChangedError
        The output's hash differs from the one in the report.
    """
    if not output.exists():
        raise FileNotFoundError(f"the pipeline reported success and wrote no {output.name}")
    if output_format is ResultFormat.OME_ZARR:
        file = output.with_name(output.name + ".zip")
        output_sha256 = archive(output, file, raise_if_cancelled)
        size, file_sha256 = size_and_sha256(file, raise_if_cancelled)
    else:
        file = output
        size, file_sha256 = size_and_sha256(file, raise_if_cancelled)
        output_sha256 = file_sha256
    if output_sha256 != report.output.sha256:
        remove(file)
        raise ResultChangedError(f"{output.name} is not what was written: the disk or another program changed it")
    return Result(file.name, size, file_sha256)
