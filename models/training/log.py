"""CSV log of a training run."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from slidelift.durable import atomic_file


class Log:
    """Appends rows to a CSV file; the file is closed after each row, so that a killed run loses none.

    Parameters
    ----------
    path
        An existing log is continued.
    columns
        Names of the losses; the columns stage, iteration, learning_rate and seconds (of the row's iterations) precede
        them.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = ["stage", "iteration", "learning_rate", "seconds", *columns]

    def cut(self, stage_order: Sequence[str], stage: int, iteration: int) -> None:
        """Drop the rows after this iteration, which a resumed run writes again."""
        rows = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                order = {name: number for number, name in enumerate(stage_order)}
                for row in csv.DictReader(file):
                    if (order.get(row["stage"], len(order)), int(row["iteration"] or 0)) <= (stage, iteration):
                        rows.append(row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_file(self._path) as file:
            file.write(text.getvalue().encode())

    def write(self, row: Mapping[str, float | int | str]) -> None:
        """Append one row; floats with six significant digits."""
        shown = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(shown)
