"""Base error of stores, in a module without dependencies because the command line imports it at startup."""

from slidelift.errors import SlideliftError


class StoreError(SlideliftError):
    """Base of the errors that a store raises."""
