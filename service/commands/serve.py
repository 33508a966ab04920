"""`slidelift serve` and `slidelift worker`: run the REST service and its workers."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    serve = commands.add_parser("serve", help="run the REST service: API and one worker")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 8000)")
    serve.add_argument("--data-dir", type=Path, metavar="DIR", help="data folder (default ./slidelift-data)")
    serve.add_argument("--no-worker", action="store_true", help="run the API only; workers run elsewhere")
    serve.set_defaults(command=_serve)

    worker = commands.add_parser("worker", help="run another worker on a data folder")
    worker.add_argument("--data-dir", type=Path, metavar="DIR", help="data folder (default ./slidelift-data)")
    worker.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    worker.set_defaults(command=_worker)


def _serve(options: argparse.Namespace) -> int:
    from slidelift.service.commands import supervisor
    from slidelift.service.settings import Settings
    from slidelift.service.storage.start_checks import require_usable

    given = {"host": options.host, "port": options.port, "data_dir": options.data_dir}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})
    require_usable(settings)  # before the worker starts, so that an error is reported once
    return supervisor.serve_alone(settings) if options.no_worker else supervisor.serve_with_worker(settings)


def _worker(options: argparse.Namespace) -> int:
    from slidelift.service import worker
    from slidelift.service.commands.supervisor import end_with_parent
    from slidelift.service.settings import Settings

    if options.with_parent:
        end_with_parent()
    return worker.main(Settings(**({"data_dir": options.data_dir} if options.data_dir else {})))
