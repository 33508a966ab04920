"""`slidelift serve`: the API, and beside it a worker process that is started again when it dies."""

import os
import signal
import subprocess
import sys
import threading
import time

from slidelift.service.errors import EXIT_DONE, EXIT_FAILED
from slidelift.service.settings import Settings

_RESTART_SECONDS = 1.0
_STOP_SECONDS = 35.0  # a worker hands its job back within 30


class WorkerProcess:
    """A worker that is kept alive; it ends with this process, however that ends."""

    def __init__(self, settings: Settings) -> None:
        self._command = [sys.executable, "-P", "-m", "slidelift", "worker", "--with-parent"]
        self._environment = os.environ | settings.as_environment()
        self._stopping = threading.Event()
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Let it hand back its job, and wait for it."""
        self._stopping.set()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, env=self._environment, start_new_session=True)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._process.wait()
            if self._stopping.wait(_RESTART_SECONDS):
                return
            self._process = self._start()


def serve_alone(settings: Settings) -> int:
    """Run the API without a worker until a signal."""
    from slidelift.service.app import serve

    serve(settings)
    return EXIT_DONE


def serve_with_worker(settings: Settings) -> int:
    """Run both until a signal."""
    from slidelift.service.app import serve

    worker = WorkerProcess(settings)
    try:
        serve(settings)
    except SystemExit:  # uvicorn's way to say that it could not start, such as a port in use; it has said why
        return EXIT_FAILED
    finally:
        worker.stop()
    return EXIT_DONE


def end_with_parent() -> None:
    """Stop this process, as SIGTERM would, when its standard input ends; at once if that does not help."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
