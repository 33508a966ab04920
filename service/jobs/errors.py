"""Base error of stores, in a module without dependencies because the command line imports it at startup."""


class StoreError(Exception):
    """Base of the errors that a store raises."""
