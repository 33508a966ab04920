"""The root of all exceptions that slidelift raises on purpose."""


class SlideliftError(Exception):
    """Base class of `slidelift.wsi.errors`, `slidelift.models.errors` and `slidelift.service.errors`."""
