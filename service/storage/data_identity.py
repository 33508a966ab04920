"""A data folder and a database belong together: both keep one identity, and a service starts on no other pair.

Without this, a worker that was started without its SLIDELIFT_DATABASE_URL, or with an emptied database, would take
every slide and result in the folder for a leftover.
"""

import uuid

from slidelift.service.errors import refusal
from slidelift.service.jobs.store import Store
from slidelift.service.storage.files import Storage


def require_same_identity(storage: Storage, store: Store) -> None:
    """Compare the identities, and make one where both sides are new.

    Raises
    ------
    ServiceError
        data.identity: the folder belongs to another database, or the database to another folder.
    """
    with storage.alone():
        of_folder, of_database = storage.identity(), store.identity()
        if of_folder is not None and of_folder == of_database:
            return
        _refuse_strangers(storage, store, of_folder, of_database)
        _give_identity(storage, store, of_database or of_folder or uuid.uuid4().hex)


def adopt(storage: Storage, store: Store) -> None:
    """Give a folder and a database one new identity, whatever they had."""
    with storage.alone():
        _give_identity(storage, store, uuid.uuid4().hex)


def _give_identity(storage: Storage, store: Store, identity: str) -> None:
    store.keep_identity(identity)
    storage.keep_identity(identity)


def _refuse_strangers(storage: Storage, store: Store, of_folder: str | None, of_database: str | None) -> None:
    in_folder = storage.stored_ids()
    known = [one for one in in_folder if store.has_slide(one) or store.has_job(one)]
    if of_folder is not None and of_database is not None:
        reason = "the folder belongs to another database"
    elif in_folder and not known:
        reason = f"the folder holds {len(in_folder)} slides and jobs, and the database knows none of them"
    elif of_folder is not None and not known:  # a database gets its identity first
        reason = "the folder was used with another database, and this one is new"
    elif not in_folder and store.has_entries():
        reason = "the database lists slides or jobs, and the folder holds none"
    else:
        return
    raise refusal(
        "data.identity",
        f"{storage.data_dir}: {reason}. Nothing was changed. Look at SLIDELIFT_DATABASE_URL, at "
        "SLIDELIFT_DATA_DIR, and whether the folder's disk is mounted or the database was restored. If the two are to "
        "be used together from now on, run `slidelift adopt` with the same settings: files that the database does not "
        "know are then moved to the folder set-aside, not deleted",
    )
