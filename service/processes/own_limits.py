"""Limits that a process sets itself, within those that it was started with."""

import resource


def limit_self(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit of `resource`; one that is lower already stays, since no process may raise its hard limit.

    Parameters
    ----------
    hard
        As `soft` where it is not given.
    """
    _, given = resource.getrlimit(kind)
    wanted = (soft, soft if hard is None else hard)
    if given != resource.RLIM_INFINITY:
        wanted = min(wanted[0], given), min(wanted[1], given)
    resource.setrlimit(kind, wanted)
