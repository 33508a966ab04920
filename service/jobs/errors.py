"""What stores raise, apart from what they need: the command line names it before it loads anything."""

from slidelift.errors import SlideliftError


class StoreError(SlideliftError):
    """What a store refuses."""
