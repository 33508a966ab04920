"""`slidelift serve` and `slidelift worker`: the REST service and its workers."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Put the commands into the parser's table."""
    serve = commands.add_parser("serve", help="run the REST service: API and worker")
    serve.add_argument("--host", help="default 127.0.0.1")
    serve.add_argument("--port", type=int, help="default 8000")
    serve.add_argument("--data-dir", type=Path, metavar="DIR", help="default ./slidelift-data")
    serve.add_argument("--no-worker", action="store_true", help="the API alone; workers run elsewhere")
    serve.set_defaults(command=_serve)

    worker = commands.add_parser("worker", help="run one more worker on a data folder")
    worker.add_argument("--data-dir", type=Path, metavar="DIR")
    worker.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    worker.set_defaults(command=_worker)


def _serve(options: argparse.Namespace) -> int:
    from slidelift.service.commands import supervisor as together
    from slidelift.service.settings import Settings
    from slidelift.service.storage.start_checks import require_usable

    given = {"host": options.host, "port": options.port, "data_dir": options.data_dir}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})
    require_usable(settings)  # before the worker starts, which would say the same
    return together.serve_alone(settings) if options.no_worker else together.serve_with_worker(settings)


def _worker(options: argparse.Namespace) -> int:
    from slidelift.service import worker
    from slidelift.service.commands.supervisor import end_with_parent
    from slidelift.service.settings import Settings

    if options.with_parent:
        end_with_parent()
    return worker.main(Settings(**({"data_dir": options.data_dir} if options.data_dir else {})))
