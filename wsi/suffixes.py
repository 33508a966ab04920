"""The suffixes that name output formats; apart from the writers, so that asking costs no import of theirs."""

OME_TIFF = (".ome.tiff", ".ome.tif")
OME_ZARR = (".ome.zarr",)
SUFFIXES = (*OME_TIFF, *OME_ZARR)


def suffix_of(name: str) -> str:
    """The suffix that names an output's format, in small letters; none where it names no format."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def without_suffix(name: str) -> str:
    """An output's name without the suffix that names its format."""
    return name[: len(name) - len(suffix_of(name))]
