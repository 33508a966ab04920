"""What a slide may be called, and how its file is called in storage: no word of a user's becomes part of a path."""

from enum import StrEnum

from slidelift.service.errors import refusal

SLIDE_SUFFIXES = (
    *(".ome.tiff", ".ome.tif", ".tiff", ".tif", ".svs", ".ndpi", ".scn", ".bif", ".svslide", ".dcm"),
    *(".png", ".jpeg", ".jpg", ".jp2"),
)
"""Suffixes that decoders look at and that a stored file therefore keeps; the longer before those they end in."""

MULTI_FILE_SUFFIXES = (".mrxs", ".vms", ".vmu")
"""Formats whose named file holds no pixels: alone it can't be a slide."""

NAME_MAX_BYTES = 255


class Bundle(StrEnum):
    """An archive that holds the files of one slide."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"

    @classmethod
    def of(cls, name: str) -> "Bundle | None":
        """What a file of that name is, None where it is no archive."""
        lower = name.lower()
        kinds = {".zip": cls.ZIP, ".tar": cls.TAR, ".tar.gz": cls.TAR_GZ, ".tgz": cls.TAR_GZ}
        return next((kind for suffix, kind in kinds.items() if lower.endswith(suffix)), None)


def require_name(name: str) -> None:
    """Raise ServiceError upload.name where a file could not be called so, slide.multi-file where it can't be alone."""
    size = len(name.encode("utf-8", errors="replace"))
    if not name.strip() or name in (".", "..") or size > NAME_MAX_BYTES:
        raise refusal("upload.name", f"a name is 1 to {NAME_MAX_BYTES} bytes long and neither blank, '.' nor '..'")
    if any(character in "/\\" or not character.isprintable() for character in name):
        raise refusal("upload.name", "a name holds no slash, backslash or control character; send the bare file name")
    for suffix in MULTI_FILE_SUFFIXES:
        if name.lower().endswith(suffix):
            beside = "its folder" if suffix == ".mrxs" else "the files that it names"
            detail = (
                f"a {suffix} slide is several files: send one .zip, .tar or .tar.gz that holds the {suffix} file and "
                f"{beside}; or run `slidelift upscale` where the files lie"
            )
            raise refusal("slide.multi-file", detail)


def stored_file_name(name: str) -> str:
    """The file name under which a slide of that name is stored; `require_name` has let the name through."""
    return "slide" + slide_suffix(name)


def slide_suffix(name: str) -> str:
    """The suffix of a name that decoders look at, in lower case; empty where it has none."""
    lower = name.lower()
    return next((suffix for suffix in SLIDE_SUFFIXES if lower.endswith(suffix)), "")
