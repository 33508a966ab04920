"""Checks that a data folder and a database belong together: both store the same identity.

Without this check, a worker that was started without its SLIDELIFT_DATABASE_URL, or with an emptied database, would
set aside all slides and results in the folder.
"""

import uuid

from slidelift.service.errors import refusal
from slidelift.service.jobs.store import Store
from slidelift.service.storage.files import Storage


def require_same_identity(storage: Storage, store: Store) -> None:
    """Compare the identities; give both a new one if both are new.

    Raises
    ------
    ServiceError
        data.identity: the folder belongs to another database, or the database to another folder.
    """
    with storage.exclusive():
        folder_identity, database_identity = storage.identity(), store.identity()
        if folder_identity is not None and folder_identity == database_identity:
            return
        _refuse_mismatch(storage, store, folder_identity, database_identity)
        _give_identity(storage, store, database_identity or folder_identity or uuid.uuid4().hex)


def adopt(storage: Storage, store: Store) -> None:
    """Give a folder and a database a new common identity."""
    with storage.exclusive():
        _give_identity(storage, store, uuid.uuid4().hex)


def _give_identity(storage: Storage, store: Store, identity: str) -> None:
    store.keep_identity(identity)
    storage.write_identity(identity)


def _refuse_mismatch(
    storage: Storage, store: Store, folder_identity: str | None, database_identity: str | None
) -> None:
    stored = storage.stored_ids()
    known = [stored_id for stored_id in stored if store.has_slide(stored_id) or store.has_job(stored_id)]
    if folder_identity is not None and database_identity is not None:
        reason = "the folder belongs to another database"
    elif stored and not known:
        reason = f"the folder holds {len(stored)} slides and jobs, and the database lists none of them"
    elif folder_identity is not None and not known:  # the database gets its identity before the folder
        reason = "the folder was used with another database, and this one is new"
    elif not stored and store.has_entries():
        reason = "the database lists slides or jobs, and the folder holds none"
    else:
        return
    raise refusal(
        "data.identity",
        f"{storage.data_dir}: {reason}. Nothing was changed. Check SLIDELIFT_DATABASE_URL and SLIDELIFT_DATA_DIR, "
        "whether the folder's disk is mounted, and whether the database was restored. To use the two together from now "
        "on, run `slidelift adopt` with the same settings; it moves files that the database does not know to the "
        "folder set-aside",
    )
