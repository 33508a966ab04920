"""Access to a local Zarr folder that never leaves it, neither through links nor through paths in its metadata."""

from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from slidelift.wsi.errors import ForeignFileError


class ContainedStore(LocalStore):  # type: ignore[misc]  # zarr is not typed here
    """Local store that refuses keys whose file lies outside of the store's root, for example behind a link."""

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
                f"{self.root.name}: {key} leads out of this folder by a link, and links are not followed; copy the "
                "image with all its files into one folder"
            )


def check_level_path(group: Path, path: object) -> str:
    """Return a level's path as given in the multiscales metadata.

    Raises
    ------
    ForeignFileError
        The path leads out of the group.
    """
    parts = path.split("/") if isinstance(path, str) else [".."]
    if any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts):
        raise ForeignFileError(
            f"{group.name}: its multiscales metadata name a level outside of this folder: {path!r}; write the image "
            "again"
        )
    return "/".join(parts)
