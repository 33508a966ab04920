"""Checks size limits, quotas and free disk space before an upload begins."""

from slidelift.service.errors import refusal
from slidelift.service.jobs.quotas import Limits
from slidelift.service.jobs.store import Store
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage
from slidelift.service.uploads.errors import upload_too_large
from slidelift.service.uploads.inbox import Inbox
from slidelift.service.uploads.reservations import reserved_bytes

MAX_UNFINISHED = 200
"""Per owner. Each unfinished upload is read when another begins, which takes 0.1 ms."""


class Admission:
    """Admits or refuses uploads by size, quota and disk space."""

    def __init__(self, settings: Settings, store: Store, storage: Storage, inbox: Inbox) -> None:
        self.settings = settings
        self._store, self._storage, self._inbox = store, storage, inbox

    def admit(self, expected_bytes: int, owner: str | None, *, upload_id: str = "", received_bytes: int = 0) -> None:
        """Admit an upload of a size; call it inside `Inbox.exclusive`, so that no two uploads get the same space.

        Parameters
        ----------
        expected_bytes
            0 if unknown: then only the disk reserve must be free.
        owner
            Id of the uploader's access token, None if the service requires no tokens.
        upload_id, received_bytes
            Id and received bytes of an upload that has begun already.

        Raises
        ------
        ServiceError
            upload.too-large, quota.uploads, quota.bytes, storage.full.
        """
        if expected_bytes > self.settings.max_upload_bytes:
            raise upload_too_large(self.settings.max_upload_bytes)
        others = self._inbox.unfinished(upload_id)
        own = [upload for upload in others if upload.owner == owner]
        if len(own) >= MAX_UNFINISHED:
            raise refusal(
                "quota.uploads", f"you have {len(own)} unfinished uploads; finish or DELETE some to begin others"
            )
        limits = Limits.of_owner(self.settings, self._store, owner)
        limits.admit_bytes(expected_bytes, self._store.kept_bytes(owner) + sum(upload.bytes for upload in own))
        remaining = max(0, expected_bytes - received_bytes)
        self._storage.require_space(remaining + reserved_bytes(others, owner))
