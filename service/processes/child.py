"""The runner's child: decodes and computes, answers in JSON lines, dies with its parent.

    python -m slidelift.service.processes.child upscale|probe|look

Started by `service.processes.runner` and `service.processes.viewer_pool`.
"""

import json
import logging
import os
import queue
import resource
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from slidelift.service.pipeline.failures import describe
from slidelift.service.pipeline.progress import CancelToken, Progress
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.processes.own_limits import limit_self
from slidelift.wsi.errors import PixelSizeImplausibleError, PixelSizeMissingError, SlideUnreadableError, TileReadError
from slidelift.wsi.geometry import Region
from slidelift.wsi.readers.decode_limits import MAX_TILE_BYTES
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import Pixels, SlideReader
from slidelift.wsi.tissue import looks_dark

if TYPE_CHECKING:
    from slidelift.service.pipeline.tile_decoder import TileDecoder

# What opening a slide and decoding tiles of it may take. 4 GiB of addresses, of which 1 GiB goes to libraries: a plain
# picture of `flat_image.MAX_PIXELS` takes 1.0 to 1.6 GB while it is decoded.
_PROBE_MEMORY = 4 << 30
_PROBE_CPU_SECONDS = 30
_PROBE_FILES = 1024  # a DICOM series is opened file by file
_SAMPLE_SIDE = 256

# What a job may hold: 0.25 to 0.53 GB were measured on a CPU (bicubic, compact-x4, realesrgan-x4), and each thread that
# decodes may hold a tile of the largest size as it is read, as it is decoded and as it is handed on. It is a limit of
# data (RLIMIT_DATA), since torch reserves addresses that it never fills. What CUDA's library holds was not measured,
# and too low a limit would fail every job: where there is a card there is none. The bound stands behind the refusals of
# `wsi.readers.decode_limits`, for formats in which a tile's own header says more than they can tell.
_WORK_MEMORY = 4 << 30
_THREAD_MEMORY = 3 * MAX_TILE_BYTES
_CUDA_DEVICE = Path("/dev/nvidiactl")


class _Line:
    """The messages to the parent; the real standard output, which nothing else may write to."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


def main() -> None:
    """Serve requests until standard input ends."""
    line = _Line()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it logs of damaged files, our errors say
    requests: queue.Queue[tuple[dict[str, Any], CancelToken]] = queue.Queue()
    role = sys.argv[1]
    if role in ("probe", "look"):
        limit_self(resource.RLIMIT_AS, _PROBE_MEMORY)
        limit_self(resource.RLIMIT_NOFILE, _PROBE_FILES)
        limit_self(resource.RLIMIT_FSIZE, 0)  # looking is not writing
    if role == "upscale" and not _CUDA_DEVICE.exists():
        limit_self(resource.RLIMIT_DATA, work_memory_bytes())
    if role == "probe":
        limit_self(resource.RLIMIT_CPU, _PROBE_CPU_SECONDS, _PROBE_CPU_SECONDS + 5)  # SIGXCPU first
    decoder = None
    limit_self(resource.RLIMIT_CORE, 0)
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        message, token = requests.get()
        try:
            if "probe" in message:
                line.send(facts=probe(Path(message["probe"])))
            elif "look" in message:
                decoder = decoder or _decoder()
                line.send(**decoder.answer(message["look"]))
            else:
                line.send(report=_upscale(message["request"], line, token))
        except Exception as error:  # noqa: BLE001 - the parent is told, whatever it is
            traceback.print_exc()
            line.send(problem=describe(error).as_dict())


def work_memory_bytes() -> int:
    """How much data the child of a job may hold, network and threads included."""
    return _WORK_MEMORY + (os.cpu_count() or 1) * _THREAD_MEMORY


def _listen(requests: "queue.Queue[tuple[dict[str, Any], CancelToken]]") -> None:
    token = CancelToken()
    for text in sys.stdin:
        message = json.loads(text)
        if "cancel" in message:
            token.cancel()
        else:
            token = CancelToken()
            requests.put((message, token))
    os._exit(0)  # the parent is gone or has had enough; a stripe's segment is whole or not there


def _decoder() -> "TileDecoder":
    from slidelift.service.pipeline.tile_decoder import TileDecoder

    return TileDecoder()


def _upscale(values: dict[str, Any], line: _Line, token: CancelToken) -> dict[str, Any]:
    from slidelift.service.pipeline.upscale import upscale

    token.raise_if_cancelled()
    request = UpscaleRequest.from_dict(values)

    def tell(progress: Progress) -> None:
        line.send(progress=asdict(progress))

    return upscale(request, tell, token).as_dict()


def probe(path: Path) -> dict[str, Any]:
    """Open a slide and decode nine samples of its finest level, and one of each other.

    Raises
    ------
    WsiError
        It can't be opened, or not one sample can be decoded.
    """
    reader = open_slide(path)
    try:
        regions = _samples(reader)
        samples, failures = _decoded(reader, regions)
        if not samples:
            raise SlideUnreadableError(
                f"{path.name}: it opens, but none of {len(failures)} sample tiles can be decoded "
                f"({failures[0].cause}); it is damaged: copy or export it again"
            )
        facts = {**reader.info.as_dict(), "is_dark": looks_dark(np.concatenate(samples))}
        try:
            reader.info.resolve_mpp(None)
        except PixelSizeImplausibleError:
            facts["warnings"].append("no slide scanner has this µm per pixel: a job must give or confirm it as mpp")
        except PixelSizeMissingError:
            pass  # said by mpp itself
        facts["warnings"].extend(_bad_levels(reader))
        if failures:
            facts["warnings"].append(f"{len(failures)} of {len(regions)} sample tiles can't be decoded")
        return facts
    finally:
        reader.close()


def _samples(reader: SlideReader) -> list[Region]:
    size = reader.info.size
    side = min(_SAMPLE_SIDE, size.width), min(_SAMPLE_SIDE, size.height)
    return [
        Region((size.width - side[0]) * x // 2, (size.height - side[1]) * y // 2, *side)
        for y in range(3)
        for x in range(3)
    ]


def _bad_levels(reader: SlideReader) -> list[str]:
    """A warning for each level below the finest whose middle can't be decoded."""
    found = []
    for number, level in enumerate(reader.info.levels[1:], start=1):
        width, height = min(_SAMPLE_SIDE, level.size.width), min(_SAMPLE_SIDE, level.size.height)
        middle = Region((level.size.width - width) // 2, (level.size.height - height) // 2, width, height)
        try:
            reader.read_region(number, middle)
        except TileReadError as error:
            found.append(f"level {number} can't be decoded in its middle ({error.cause}): no job should read it")
    return found


def _decoded(reader: SlideReader, regions: list[Region]) -> tuple[list[Pixels], list[TileReadError]]:
    """The samples that can be decoded, and why the others can't."""
    samples, failures = [], []
    for region in regions:
        try:
            samples.append(reader.read_region(0, region))
        except TileReadError as error:
            failures.append(error)
    return samples, failures


if __name__ == "__main__":
    main()
