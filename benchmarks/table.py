"""Markdown tables of measurements."""

from collections.abc import Sequence

from benchmarks.cost import Cost


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> str:
    """Return a titled table with notes below."""
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes)])


def cells(cost: Cost) -> list[str]:
    """Return wall seconds, CPU seconds and peak MiB as text."""
    return [f"{cost.wall:.3g}", f"{cost.cpu:.3g}", f"{cost.peak:.0f}" if cost.peak else ""]
