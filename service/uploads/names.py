"""Checks names of slides and chooses the names of stored files, which contain no text of a user."""

from enum import StrEnum

from slidelift.service.errors import refusal

SLIDE_SUFFIXES = (
    *(".ome.tiff", ".ome.tif", ".tiff", ".tif", ".svs", ".ndpi", ".scn", ".bif", ".svslide", ".dcm"),
    *(".png", ".jpeg", ".jpg", ".jp2"),
)
"""Suffixes that decoders depend on, so a stored file keeps them; longer suffixes before their endings."""

MULTI_FILE_SUFFIXES = (".mrxs", ".vms", ".vmu")
"""Formats whose main file contains no pixels, so it is no slide without the other files."""

NAME_MAX_BYTES = 255


class Bundle(StrEnum):
    """Format of an archive with the files of one slide."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"

    @classmethod
    def of(cls, name: str) -> "Bundle | None":
        """Return the format by a file's name, None if it is no archive."""
        lower = name.lower()
        kinds = {".zip": cls.ZIP, ".tar": cls.TAR, ".tar.gz": cls.TAR_GZ, ".tgz": cls.TAR_GZ}
        return next((kind for suffix, kind in kinds.items() if lower.endswith(suffix)), None)


def require_name(name: str) -> None:
    """Raise ServiceError upload.name if the name is invalid, slide.multi-file if the format needs several files."""
    size = len(name.encode("utf-8", errors="replace"))
    if not name.strip() or name in (".", "..") or size > NAME_MAX_BYTES:
        raise refusal("upload.name", f"a name must have 1 to {NAME_MAX_BYTES} bytes and must not be blank, '.' or '..'")
    if any(character in "/\\" or not character.isprintable() for character in name):
        raise refusal(
            "upload.name",
            "a name must not contain slashes, backslashes or control characters; send the bare file name",
        )
    for suffix in MULTI_FILE_SUFFIXES:
        if name.lower().endswith(suffix):
            beside = "its folder" if suffix == ".mrxs" else "the files that it refers to"
            detail = (
                f"a {suffix} slide consists of several files: send one .zip, .tar or .tar.gz with the {suffix} file "
                f"and {beside}; or run `slidelift upscale` on the machine that has the files"
            )
            raise refusal("slide.multi-file", detail)


def stored_file_name(name: str) -> str:
    """Return the name of the stored file of a slide whose name has passed `require_name`."""
    return "slide" + slide_suffix(name)


def slide_suffix(name: str) -> str:
    """Return the suffix in lower case if it is in SLIDE_SUFFIXES, else an empty string."""
    lower = name.lower()
    return next((suffix for suffix in SLIDE_SUFFIXES if lower.endswith(suffix)), "")
