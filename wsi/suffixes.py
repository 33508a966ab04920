"""The suffixes that name output formats; apart from the writers, so that asking costs no import of theirs."""

OME_TIFF = (".ome.tiff", ".ome.tif")
OME_ZARR = (".ome.zarr",)
SUFFIXES = (*OME_TIFF, *OME_ZARR)


def without_suffix(name: str) -> str:
    """An output's name without the suffix that names its format."""
    found = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(found)]
