"""What stores raise, apart from what they need: the command line names it before it loads anything."""


class StoreError(Exception):
    """What a store refuses."""
