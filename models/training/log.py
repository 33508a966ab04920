"""The run's CSV log: a row every few iterations, cut back to the checkpoint when a run goes on."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from slidelift.durable import atomic_file


class Log:
    """Appends rows; owns no open file between them, so that a kill loses none.

    Parameters
    ----------
    path
        A log that is there is continued.
    columns
        Names of the losses; before them stand stage, iteration, learning_rate and seconds (that its iterations took).
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = ["stage", "iteration", "learning_rate", "seconds", *columns]

    def cut(self, stage_order: Sequence[str], stage: int, iteration: int) -> None:
        """Drop rows after this iteration: they will be made again."""
        kept = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                place = {name: number for number, name in enumerate(stage_order)}
                for row in csv.DictReader(file):
                    if (place.get(row["stage"], len(place)), int(row["iteration"] or 0)) <= (stage, iteration):
                        kept.append(row)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        with atomic_file(self._path) as file:
            file.write(text.getvalue().encode())

    def write(self, row: Mapping[str, float | int | str]) -> None:
        """Append one row; floats with six significant digits."""
        shown = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(shown)
