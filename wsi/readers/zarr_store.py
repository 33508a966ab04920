"""A folder of Zarr that is read without leaving it: by no link in it, and by no path in its attributes."""

from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from slidelift.wsi.errors import ForeignFileError


class ContainedStore(LocalStore):  # type: ignore[misc]  # zarr is not typed here
    """A local store that refuses a key whose file lies outside of its root, which a link can make so."""

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        """See `LocalStore.get`; raises ForeignFileError."""
        self._require_inside(key)
        return await super().get(key, *arguments, **options)

    async def exists(self, key: str) -> bool:
        """See `LocalStore.exists`; raises ForeignFileError."""
        self._require_inside(key)
        return bool(await super().exists(key))

    def _require_inside(self, key: str) -> None:
        root = self.root.resolve()
        if not (root / key).resolve().is_relative_to(root):
            raise ForeignFileError(
                f"{self.root.name}: {key} lies elsewhere, by a link or its path, which is not followed; copy the whole "
                "folder"
            )


def check_level_path(group: Path, said: Any) -> str:
    """Take the path of a level as its group names it; raises ForeignFileError where it leads out of the group."""
    parts = said.split("/") if isinstance(said, str) else [".."]
    if any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts):
        raise ForeignFileError(f"{group.name}: its multiscales name a level elsewhere: {said!r}; write the image again")
    return "/".join(parts)
