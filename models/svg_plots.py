"""Box plots and strip plots as SVG text, for self-contained reports."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b")
"""Okabe and Ito's colour-blind safe palette without yellow and black, and two more colours."""
BASELINE_COLOUR = "#767676"

_WIDTH, _ROW, _LABEL, _MARGIN = 430, 24, 130, 26


def colours(names: Sequence[str], baseline: str) -> dict[str, str]:
    """Assign a colour to each name, grey to the baseline; the palette repeats after eight."""
    others = [name for name in names if name != baseline]
    assigned = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(others)}
    return {name: assigned.get(name, BASELINE_COLOUR) for name in names}


def box_plot(title: str, values: Mapping[str, Sequence[float]], colour: Mapping[str, str], digits: int) -> str:
    """Draw a row per name: whiskers at the 5th and 95th percentiles, quartile box, median, and a dot for the mean.

    Values that are not finite are ignored; returns "" if there are no others.
    """
    finite = {name: [value for value in one if math.isfinite(value)] for name, one in values.items()}
    shown = [value for one in finite.values() for value in one]
    if not shown:
        return ""
    percentiles = {name: np.percentile(one, [5, 25, 50, 75, 95]) for name, one in finite.items() if one}
    low = min(float(one[0]) for one in percentiles.values())
    high = max(float(one[-1]) for one in percentiles.values())
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def x(value: float) -> float:
        return _LABEL + (value - low) / (high - low) * (_WIDTH - _LABEL - _MARGIN)

    height = _ROW * len(values) + 26
    parts = [_grid(x(tick), 4, height - 22, f"{tick:.{digits}f}") for tick in ticks]
    for row, name in enumerate(values):
        middle = 4 + _ROW * (row + 0.5)
        parts.append(f'<text x="{_LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        if name in percentiles:
            parts.append(_box([x(float(value)) for value in percentiles[name]], middle, colour[name]))
            mean = x(min(max(float(np.mean(finite[name])), low), high))
            parts.append(f'<circle cx="{mean:.1f}" cy="{middle:.1f}" r="2.5" fill="#fff" stroke="#222"/>')
    means = ", ".join(f"{name} {np.mean(one):.{digits}f}" for name, one in finite.items() if one)
    return _svg(f"{title}. Means: {means}", height, parts)


def strip_plot(
    title: str, labels: Sequence[str], values: Mapping[str, Sequence[float]], colour: Mapping[str, str]
) -> str:
    """Draw a column per image with a dot per name, around a line at zero; values that are not finite are ignored."""
    shown = [value for one in values.values() for value in one if math.isfinite(value)]
    if not shown:
        return ""
    ticks = _ticks(min(0.0, *shown), max(0.0, *shown))
    low, high = min(ticks[0], *shown), max(ticks[-1], *shown)
    left, top, height, width = 44, 10, 200, 860
    step = (width - left - 10) / len(labels)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * height

    parts = [
        f'<line x1="{left}" x2="{width - 10}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
        f'stroke="{"#222" if tick == 0 else "#ddd"}"/>'
        f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    ]
    for column, label in enumerate(labels):
        across = left + step * (column + 0.5)
        for name, one in values.items():
            if math.isfinite(one[column]):
                parts.append(
                    f'<circle cx="{across:.1f}" cy="{y(one[column]):.1f}" r="4" fill="{colour[name]}" '
                    f'fill-opacity="0.8"><title>{escape(label)}, {escape(name)}: {one[column]:+.2f}</title></circle>'
                )
        if len(labels) <= 40:
            foot = top + height + 14
            parts.append(
                f'<text x="{across:.1f}" y="{foot}" text-anchor="end" '
                f'transform="rotate(-40 {across:.1f} {foot})">{escape(_short(label))}</text>'
            )
    return _svg(title, top + height + 80, parts, width)


def legend(colour: Mapping[str, str]) -> str:
    """Return names with their colours as an HTML list."""
    items = "".join(
        f'<li><span class="swatch" style="background:{one}"></span>{escape(name)}</li>' for name, one in colour.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _svg(title: str, height: float, parts: Sequence[str], width: int = _WIDTH) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height:.0f}" width="{width}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _grid(x: float, top: float, bottom: float, label: str) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#ddd"/>'
        f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>'
    )


def _box(x: Sequence[float], middle: float, colour: str) -> str:
    p5, lower, median, upper, p95 = x
    return (
        f'<line x1="{p5:.1f}" x2="{p95:.1f}" y1="{middle}" y2="{middle}" stroke="{colour}" stroke-width="1.5"/>'
        f'<rect x="{lower:.1f}" y="{middle - 7}" width="{max(upper - lower, 1):.1f}" height="14" '
        f'fill="{colour}" fill-opacity="0.45" stroke="{colour}"/>'
        f'<line x1="{median:.1f}" x2="{median:.1f}" y1="{middle - 7}" y2="{middle + 7}" stroke="#222" '
        'stroke-width="2"/>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers that span low..high."""
    if high - low < 1e-9:
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-9:]}"
