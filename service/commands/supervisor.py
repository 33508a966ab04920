"""Run the API of `slidelift serve` together with a worker process that is restarted when it dies."""

import os
import signal
import subprocess
import sys
import threading
import time

from slidelift.service.errors import EXIT_DONE, EXIT_FAILED
from slidelift.service.settings import Settings

_RESTART_SECONDS = 1.0
_STOP_SECONDS = 35.0  # a worker hands back its job within 30 s


class WorkerProcess:
    """Worker process that is restarted when it dies; it ends with this process, even if that is killed."""

    def __init__(self, settings: Settings) -> None:
        self._command = [sys.executable, "-P", "-m", "slidelift", "worker", "--with-parent"]
        self._environment = os.environ | settings.as_environment()
        self._stopping = threading.Event()
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stop the worker and wait until it has handed back its job."""
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
    """Run the API and one worker until a signal."""
    from slidelift.service.app import serve

    worker = WorkerProcess(settings)
    try:
        serve(settings)
    except SystemExit:  # uvicorn could not start, for example because the port is in use; it has printed why
        return EXIT_FAILED
    finally:
        worker.stop()
    return EXIT_DONE


def end_with_parent() -> None:
    """Send this process SIGTERM when its standard input ends; exit if that has not stopped it in time."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
