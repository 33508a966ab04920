"""Report of an evaluation as one HTML file: tables, plots, crops and error maps."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from slidelift.models.evaluate import BASELINE, SetScores, Summary
from slidelift.models.html_report import heat, heat_scale, page, picture
from slidelift.models.metrics.measures import MEASURES, Measure
from slidelift.models.report_crops import Crop
from slidelift.models.svg_plots import box_plot, colours, legend, strip_plot

_ENLARGED = 2.5
_BEST = ' class="best"'


def image_report(
    scores: Mapping[str, SetScores], crops: Sequence[Crop], scale: int, mpp: float, computed_on: str
) -> str:
    """Return the report of `slidelift evaluate --images` as an HTML document.

    Parameters
    ----------
    crops
        May be empty.
    computed_on
        Sentence about the processor and the precision (`models.hardware.describe_hardware`).
    """
    names = list(next(iter(scores.values())).models)
    colour = colours(names, BASELINE)
    parts = [
        f"<p>{len(names)} models, enlargement {scale}, {mpp:g} µm per pixel. Each image is reduced, enlarged and "
        f"compared to itself; gains are over {BASELINE} on the same image. {escape(computed_on)}</p>",
        legend(colour),
    ]
    parts += [_set_section(name, set_scores, colour) for name, set_scores in scores.items()]
    if crops:
        parts.append("<h2>Crops</h2><p>The grid squares where the models gain most and least over bicubic.</p>")
        parts += [_crop_section(crop, word) for crop, word in zip(crops, ("Largest", "Smallest"), strict=False)]
    parts.append(_explanations())
    return page("Super-resolution evaluation", "\n".join(parts))


def _set_section(name: str, set_scores: SetScores, colour: Mapping[str, str]) -> str:
    measures = [one for one in MEASURES if any(_counted(model.summary, one) for model in set_scores.models.values())]
    plots = [
        (one, box_plot(_titled(one), {m: s.values[one.name] for m, s in set_scores.models.items()}, colour, one.digits))
        for one in measures
    ]
    figures = "".join(
        f"<figure>{plot}<figcaption>{escape(_titled(one))}, {_sense(one)}</figcaption></figure>" for one, plot in plots
    )
    others = {model: one.gains["psnr_y"] for model, one in set_scores.models.items() if model != BASELINE}
    gains = strip_plot("Gain of PSNR-Y over bicubic by image, dB", set_scores.files, others, colour) if others else ""
    return (
        f"<h2>{escape(name)}: {len(set_scores.files)} images</h2><p>{escape(set_scores.source.description)}</p>"
        + _table(name, set_scores, measures)
        + (f"<h3>Gain of PSNR-Y over bicubic by image, dB</h3><figure>{gains}</figure>" if gains else "")
        + "<h3>All measures</h3><p>Box: quartiles and median; whiskers: 5th to 95th percentile; dot: mean.</p>"
        + f'<div class="plots">{figures}</div>'
    )


def _table(name: str, set_scores: SetScores, measures: Sequence[Measure]) -> str:
    head = "".join(f'<th scope="col">{escape(_titled(one))}</th>' for one in measures)
    best = {one.name: _best(one, set_scores) for one in measures}
    rows = []
    for model, scores in set_scores.models.items():
        cells = [
            f"<td{_BEST if model in best[one.name] else ''}>"
            f"{_cell(one, scores.summary.get(one.name), scores.gain.get(one.name))}</td>"
            for one in measures
        ]
        rows.append(f'<tr><th scope="row">{escape(model)}</th>{"".join(cells)}</tr>')
    caption = "Mean; below it the gain over bicubic, the median, and the worst 5 %. Best mean highlighted."
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Figures of {escape(name)}"><table>'
        f'<caption>{caption}</caption><thead><tr><th scope="col">model</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(measure: Measure, summary: Summary | None, gain: Summary | None) -> str:
    if summary is None or gain is None or not summary.images:
        return "–"
    worst = {True: summary.p5, False: summary.p95, None: math.nan}[measure.higher_is_better]
    lines = [f"{gain.mean:+.{measure.digits}f}", f"median {summary.median:.{measure.digits}f}"]
    lines += [f"worst {worst:.{measure.digits}f}"] if math.isfinite(worst) else []
    return f"{summary.mean:.{measure.digits}f}<small>{'<br>'.join(lines)}</small>"


def _best(measure: Measure, set_scores: SetScores) -> set[str]:
    """Models with the best mean, compared after rounding."""
    if measure.higher_is_better is None:
        return set()
    means = {
        model: round(scores.summary[measure.name].mean, measure.digits)
        for model, scores in set_scores.models.items()
        if _counted(scores.summary, measure)
    }
    target = (max if measure.higher_is_better else min)(means.values(), default=math.nan)
    return {model for model, mean in means.items() if mean == target}


def _counted(summary: Mapping[str, Summary], measure: Measure) -> bool:
    return measure.name in summary and summary[measure.name].images > 0


def _crop_section(crop: Crop, word: str) -> str:
    side = crop.truth.shape[0]
    where = f"{crop.label}, {side} x {side} px at x {crop.x}, y {crop.y}"
    errors = crop.errors
    greatest = max(float(np.percentile(one, 99.5)) for one in errors.values())
    scale = side / crop.source.shape[0]
    pictures = [
        picture(crop.truth, f"truth of {where}", "truth", _ENLARGED),
        picture(crop.source, f"source of {where}, pixels as squares", "source (nearest)", _ENLARGED * scale),
        *(picture(pixels, f"{where}, by {name}", name, _ENLARGED) for name, pixels in crop.enlarged.items()),
    ]
    maps = [
        picture(
            heat(error, greatest),
            f"error of {name}, mean {error.mean():.2f} grey levels",
            f"{name}: mean {error.mean():.2f}",
            _ENLARGED,
        )
        for name, error in errors.items()
    ]
    return (
        f"<h3>{word} gain: {crop.gain:+.2f} dB</h3><p>{escape(where)}; enlarged {_ENLARGED:g} times.</p>"
        f'<div class="pictures">{picture(crop.overview, f"{crop.label} with the crop framed", "position in the image")}'
        f"{''.join(pictures)}</div><h4>Error of luma, grey levels</h4>{heat_scale(greatest, 'grey levels')}"
        f'<div class="pictures">{"".join(maps)}</div>'
    )


def _explanations() -> str:
    items = "".join(
        f"<dt>{escape(_titled(one))}</dt><dd>{escape(one.explanation)} {_sense(one).capitalize()}.</dd>"
        for one in MEASURES
    )
    return f"<h2>Measures</h2><dl>{items}</dl>"


def _titled(measure: Measure) -> str:
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def _sense(measure: Measure) -> str:
    return {True: "higher is better", False: "lower is better", None: "neither better nor worse"}[
        measure.higher_is_better
    ]
