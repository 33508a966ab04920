"""`slidelift adopt`: pair a data folder with a database."""

import argparse
from pathlib import Path
from typing import Any

from slidelift.service.commands.terminal import print_message
from slidelift.service.errors import EXIT_DONE


def add(commands: Any) -> None:
    """Add the command to the parser."""
    adopt = commands.add_parser("adopt", help="pair a data folder with another database")
    adopt.add_argument("--data-dir", type=Path, metavar="DIR", help="data folder (default ./slidelift-data)")
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
    print_message(
        f"{settings.data_dir} now belongs to this database; {unknown} of {len(stored)} slides and jobs in the folder "
        "are not in the database and will be moved to set-aside at the next start"
    )
    return EXIT_DONE
