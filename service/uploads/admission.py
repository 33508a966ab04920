"""Whether there is room for an upload: asked once for each, before it begins or when its size becomes known."""

from typing import TYPE_CHECKING

from slidelift.service.errors import refusal
from slidelift.service.jobs.quotas import Limits
from slidelift.service.storage.files import too_large
from slidelift.service.uploads.promises import claimed_bytes

if TYPE_CHECKING:
    from slidelift.service.uploads.upload_service import UploadService


MAX_UNFINISHED = 200
"""Of one owner; each is read when another begins, which takes a tenth of a millisecond."""


def admit(
    upload_service: "UploadService",
    announced_bytes: int,
    owner: str | None,
    *,
    but_for: str = "",
    received_bytes: int = 0,
) -> None:
    """Let an upload of that size in, or refuse it; called inside `Inbox.alone`, so that two can't be let into one room.

    Parameters
    ----------
    announced_bytes
        0 where nothing is known: then only the reserve must be free.
    owner
        Id of the uploader's token, None where none is asked for.
    but_for, received_bytes
        Id of the upload itself where it is under way already, and what it has on disk.

    Raises
    ------
    ServiceError
        upload.too-large, quota.uploads, quota.bytes, storage.full.
    """
    if announced_bytes > upload_service.settings.max_upload_bytes:
        raise too_large(upload_service.settings.max_upload_bytes)
    others = upload_service.inbox.unfinished(but_for)
    own = [one for one in others if one.owner == owner]
    if len(own) >= MAX_UNFINISHED:
        raise refusal(
            "quota.uploads", f"{len(own)} of your uploads are unfinished; finish some, or DELETE them to begin others"
        )
    limits = Limits.of_owner(upload_service.settings, upload_service.store, owner)
    limits.admit_bytes(announced_bytes, upload_service.store.kept_bytes(owner) + sum(one.bytes for one in own))
    upload_service.storage.require_room(max(0, announced_bytes - received_bytes) + claimed_bytes(others, owner))
