"""Resource limits that a process sets for itself, within those that it was started with."""

import resource


def limit_self(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit of `resource`; a lower one stays, since no process may raise its hard limit.

    Parameters
    ----------
    hard
        None for the value of `soft`.
    """
    _, inherited_hard = resource.getrlimit(kind)
    limits = (soft, soft if hard is None else hard)
    if inherited_hard != resource.RLIM_INFINITY:
        limits = min(limits[0], inherited_hard), min(limits[1], inherited_hard)
    resource.setrlimit(kind, limits)
