"""Suffixes of the output formats, in a module that imports no writer and so loads quickly."""

OME_TIFF = (".ome.tiff", ".ome.tif")
OME_ZARR = (".ome.zarr",)
SUFFIXES = (*OME_TIFF, *OME_ZARR)


def suffix_of(name: str) -> str:
    """Return the suffix of an output format, in lower case; "" if the name has none."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def without_suffix(name: str) -> str:
    """Return the name without the suffix of its output format."""
    return name[: len(name) - len(suffix_of(name))]
