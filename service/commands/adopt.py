"""`slidelift adopt`: let a data folder and a database belong together from now on."""

import argparse
from pathlib import Path
from typing import Any

from slidelift.service.commands.terminal import say
from slidelift.service.errors import EXIT_DONE


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    adopt = commands.add_parser("adopt", help="use a data folder with a database that it did not belong to")
    adopt.add_argument("--data-dir", type=Path, metavar="DIR", help="default ./slidelift-data")
    adopt.set_defaults(command=_adopt)


def _adopt(options: argparse.Namespace) -> int:
    from slidelift.service.jobs.open_store import open_store
    from slidelift.service.settings import Settings
    from slidelift.service.storage.data_identity import adopt
    from slidelift.service.storage.files import Storage

    settings = Settings(**({"data_dir": options.data_dir} if options.data_dir else {}))
    storage = Storage(settings.data_dir, disk_reserve_bytes=settings.disk_reserve_bytes)
    store = open_store(settings)
    try:
        stored = storage.stored_ids()
        unknown = sum(not (store.has_slide(one) or store.has_job(one)) for one in stored)
        adopt(storage, store)
    finally:
        store.close()
    say(
        f"{settings.data_dir} and this database belong together now; {unknown} of {len(stored)} slides and jobs in the "
        "folder are unknown to the database and will be moved to set-aside at the next start"
    )
    return EXIT_DONE
