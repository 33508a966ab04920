"""The child processes that open slides: each carries out the requests of its role and ends with its parent.

    python -m slidelift.service.processes.child upscale|probe|decode

Started by `service.processes.runner` and `service.processes.viewer_pool`; the messages are those of
`service.processes.protocol`. `service.processes.probing` does the work of a probe.
"""

import logging
import os
import queue
import resource
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from slidelift.service.errors import Problem, ServiceError, problem
from slidelift.service.pipeline.failures import describe
from slidelift.service.pipeline.progress import CancelToken, Progress
from slidelift.service.processes.own_limits import limit_self
from slidelift.service.processes.probing import probe
from slidelift.service.processes.protocol import (
    Answer,
    Cancel,
    DecodeTile,
    Failed,
    MalformedMessageError,
    MapRead,
    Probed,
    ProbeSlide,
    ProgressChanged,
    ReadMap,
    ReadSize,
    Request,
    RunUpscale,
    SizeRead,
    TileDecoded,
    UnpackArchive,
    Upscaled,
    decode_request,
    encode,
)
from slidelift.wsi.errors import without_path
from slidelift.wsi.readers.decode_limits import MAX_TILE_BYTES

if TYPE_CHECKING:
    from slidelift.service.pipeline.tile_decoder import TileDecoder

# Limits of opening a slide and decoding tiles of it: 4 GiB of address space, of which libraries take 1 GiB. A plain
# picture of `flat_image.MAX_PIXELS` takes 1.0 to 1.6 GB while it is decoded.
_PROBE_MEMORY = 4 << 30
_PROBE_CPU_SECONDS = 30
_PROBE_FILES = 1024  # a DICOM series is opened file by file

# Limit of a job's memory: 0.25 to 0.53 GB were measured on a CPU (bicubic, compact-x4, realesrgan-x4), and each
# decoding thread may hold a tile of the largest size three times: as read, as decoded and as handed on. It limits data
# (RLIMIT_DATA) and not address space, since torch reserves addresses that it never fills. There is no limit on a
# machine with a GPU: the memory of the CUDA library was not measured, and a limit below it would fail every job. The
# limit backs up the checks of `wsi.readers.decode_limits`, for formats whose tile headers these cannot read.
_WORK_MEMORY = 4 << 30
_THREAD_MEMORY = 3 * MAX_TILE_BYTES
_CUDA_DEVICE = Path("/dev/nvidiactl")


class _AnswerStream:
    """Writes messages to the real standard output; moves that of the process to standard error."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, answer: Answer) -> None:
        self._stream.write(encode(answer))
        self._stream.flush()


def main() -> None:
    """Carry out requests until standard input ends."""
    answers = _AnswerStream()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our errors already report damaged files
    _set_limits(sys.argv[1])
    requests: queue.Queue[tuple[Request, CancelToken] | ServiceError] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    handler = _RequestHandler(answers)
    while True:
        received = requests.get()
        if isinstance(received, ServiceError):
            answers.send(Failed(received.problem))
            continue
        request, token = received
        try:
            answers.send(handler.answer(request, token))
        except Exception as error:  # noqa: BLE001 - every failure is an answer
            traceback.print_exc()
            answers.send(Failed(_problem_of(error, request)))


def _set_limits(role: str) -> None:
    if role in ("probe", "decode"):
        limit_self(resource.RLIMIT_AS, _PROBE_MEMORY)
        limit_self(resource.RLIMIT_NOFILE, _PROBE_FILES)
        limit_self(resource.RLIMIT_FSIZE, 0)  # these roles write no file
    if role == "upscale" and not _CUDA_DEVICE.exists():
        limit_self(resource.RLIMIT_DATA, work_memory_bytes())
    if role == "probe":
        limit_self(resource.RLIMIT_CPU, _PROBE_CPU_SECONDS, _PROBE_CPU_SECONDS + 5)  # SIGXCPU first
    limit_self(resource.RLIMIT_CORE, 0)


def work_memory_bytes() -> int:
    """Return how much data the child of a job may hold, network and threads included."""
    return _WORK_MEMORY + (os.cpu_count() or 1) * _THREAD_MEMORY


def _read_requests(requests: "queue.Queue[tuple[Request, CancelToken] | ServiceError]") -> None:
    token = CancelToken()
    for line in sys.stdin:
        try:
            request = decode_request(line)
        except ServiceError as error:
            requests.put(error)
        except MalformedMessageError as error:  # the program was replaced by another version while it ran
            detail = f"a child process received a malformed message ({error}); restart the service"
            requests.put(ServiceError(problem("internal", detail)))
        else:
            if isinstance(request, Cancel):
                token.cancel()
            else:
                token = CancelToken()
                requests.put((request, token))
    os._exit(0)  # the parent has ended or closed us; a stripe's segment is whole or absent


def _problem_of(error: Exception, request: Request) -> Problem:
    found = describe(error)
    if isinstance(error, OSError):  # the operating system's messages contain paths
        for path, name in _named_files(request):
            found = replace(found, detail=without_path(found.detail, path, name))
    return found


def _named_files(request: Request) -> list[tuple[Path, str]]:
    """List the files of a request whose paths no message may contain, with their names."""
    match request:
        case RunUpscale(upscale) if upscale.slide_name is not None:
            return [(upscale.slide, upscale.slide_name), (upscale.output, upscale.output.name)]
        case ProbeSlide(path, name):
            return [(path, name)]
        case DecodeTile(source) | ReadSize(source) | ReadMap(source):
            others = (path for path in (source.slide, source.report) if path is not None)
            return [(source.path, source.name), *((path, path.name) for path in others)]
        case _:
            return []


class _RequestHandler:
    """Carries out one request after another; a decoder keeps its slides open between them."""

    def __init__(self, answers: _AnswerStream) -> None:
        self._answers = answers
        self._decoder: TileDecoder | None = None

    def answer(self, request: Request, token: CancelToken) -> Answer:
        match request:
            case RunUpscale():
                return self._upscale(request, token)
            case ProbeSlide(path, name):
                return Probed(probe(path, name))
            case DecodeTile(source, level, column, row, image_format):
                return TileDecoded(self._tile_decoder().tile(source, level, column, row, image_format))
            case ReadSize(source):
                return SizeRead(*self._tile_decoder().size(source))
            case ReadMap(source):
                return MapRead(self._tile_decoder().map(source))
            case Cancel() | UnpackArchive():
                raise TypeError(f"{type(request).__name__} is no request to this process")

    def _tile_decoder(self) -> "TileDecoder":
        if self._decoder is None:
            from slidelift.service.pipeline.tile_decoder import TileDecoder

            self._decoder = TileDecoder()
        return self._decoder

    def _upscale(self, message: RunUpscale, token: CancelToken) -> Upscaled:
        from slidelift.service.pipeline.upscale import upscale

        token.raise_if_cancelled()

        def send_progress(progress: Progress) -> None:
            self._answers.send(ProgressChanged(progress))

        return Upscaled(upscale(message.request, send_progress, token).as_dict())


if __name__ == "__main__":
    main()
