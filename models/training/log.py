"""CSV log of a training run."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from slidelift.durable import atomic_file


class Log:
    """Appends rows to a CSV file. The file is closed after each row, so a killed run loses no row.

    Parameters
    ----------
    path
        The CSV file; rows are appended to an existing one.
    columns
        Names of the losses. They follow the columns stage, iteration, learning_rate and seconds (the duration of the
        row's iterations).
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = ["stage", "iteration", "learning_rate", "seconds", *columns]

    def cut(self, stage_order: Sequence[str], stage: int, iteration: int) -> None:
        """Delete the rows after this iteration; the resumed run writes them again."""
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
        """Append one row; floats are rounded to six significant digits."""
        shown = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(shown)
