"""An evaluation as one HTML file: tables, plots, crops and error maps; no network, no script, readable anywhere."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.models.crops import Crop
from slidelift.models.evaluate import BASELINE, SetScores, Summary
from slidelift.models.metrics.panel import MEASURES, Measure
from slidelift.models.plots import box_plot, colours, legend, strip_plot

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:76rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.6rem}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}h3{margin-top:1.8rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;color:#555;padding-bottom:.4rem}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap;vertical-align:top}
th[scope=row],th:first-child{text-align:left;position:sticky;left:0;background:#fff}
td small{display:block;color:#555;line-height:1.35}.best{background:#e8f4ea}
.plots,.pictures{display:flex;flex-wrap:wrap;gap:1rem}.plots figure{margin:0}
svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#1a1a1a}
figure{margin:0 0 1rem}figcaption{font-size:.85rem;color:#333}
img{display:block;max-width:100%;height:auto}.pixels{image-rendering:pixelated}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem}
.swatch{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}
table.words{margin:0 0 1.4rem}.words th,.words td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.words th[scope=row]{font-weight:400;color:#555;white-space:nowrap}.words caption{color:#1a1a1a}
.notice{border:2px solid #8a1c00;padding:.6rem .9rem}.warning{border-left:4px solid #b35900;padding-left:.7rem}
.framed img{border:1px solid #999}
@media print{body{max-width:none;padding:0}.scroll{overflow:visible}figure,tr{break-inside:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
@media (max-width:30rem){body{padding:.8rem}.words th[scope=row]{white-space:normal}}
dt{font-weight:600}dd{margin:0 0 .4rem 0}
"""
_HEAT = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], np.float64)
"""Black over violet and orange to pale yellow: brightness alone tells the order."""
_ENLARGED = 2.5
_BEST = ' class="best"'


def page(title: str, body: str) -> str:
    """A whole HTML document; `title` is plain text, `body` is HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )


def picture(pixels: NDArray[np.uint8], alt: str, caption: str, enlarge: float = 1, *, lossless: bool = True) -> str:
    """An image uint8 (h, w, 3) within the page, its pixels enlarged as squares, with a caption.

    As a PNG, or, a tenth of the size and not `lossless`, as a JPEG.
    """
    stream, kind = io.BytesIO(), "png" if lossless else "jpeg"
    Image.fromarray(pixels).save(stream, kind, optimize=True, **({} if lossless else {"quality": 88}))
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    width, height = (round(side * enlarge) for side in (pixels.shape[1], pixels.shape[0]))
    return (
        f'<figure><img class="pixels" alt="{escape(alt)}" width="{width}" height="{height}" '
        f'src="data:image/{kind};base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def heat(values: NDArray[np.float64], greatest: float) -> NDArray[np.uint8]:
    """Values (h, w) from 0 to `greatest` as colours (h, w, 3); what is no number becomes light grey."""
    share = np.clip(np.nan_to_num(values) / (greatest or 1), 0, 1) * (len(_HEAT) - 1)
    channels = [np.interp(share, range(len(_HEAT)), _HEAT[:, channel]) for channel in range(3)]
    colour = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    colour[~np.isfinite(values)] = 225
    return colour


def heat_scale(greatest: float, unit: str) -> str:
    """The legend of `heat`."""
    ramp = heat(np.tile(np.linspace(0, 1, 128), (10, 1)), 1.0)
    return picture(ramp, f"colour scale from 0 to {greatest:.3g} {unit}", f"0 to {greatest:.3g} {unit}", 2)


def image_report(
    scores: Mapping[str, SetScores], crops: Sequence[Crop], scale: int, mpp: float, computed_on: str
) -> str:
    """The report of `slidelift evaluate --images`, as an HTML document.

    Parameters
    ----------
    crops
        May be empty.
    computed_on
        A sentence on the processor and the precision (`models.machine.computed_on_words`).
    """
    names = list(next(iter(scores.values())).models)
    colour = colours(names, BASELINE)
    parts = [
        f"<p>{len(names)} models, enlargement {scale}, {mpp:g} µm per pixel. Every image is its own truth; gains are "
        f"against {BASELINE} on the same image. {escape(computed_on)}</p>",
        legend(colour),
    ]
    for name, found in scores.items():
        parts.append(_set_section(name, found, colour))
    if crops:
        parts.append(
            "<h2>Crops</h2><p>Chosen by rule among squares of a grid over all images: the one where the models"
        )
        parts.append(" gain most over bicubic, and the one where they gain least.</p>")
        parts += [_crop_section(crop, word) for crop, word in zip(crops, ("Largest", "Smallest"), strict=False)]
    parts.append(_explanations())
    return page("Super-resolution measured", "\n".join(parts))


def _set_section(name: str, found: SetScores, colour: Mapping[str, str]) -> str:
    measures = [one for one in MEASURES if any(_counted(model.summary, one) for model in found.models.values())]
    plots = [
        (one, box_plot(_titled(one), {m: s.values[one.name] for m, s in found.models.items()}, colour, one.digits))
        for one in measures
    ]
    figures = "".join(
        f"<figure>{plot}<figcaption>{escape(_titled(one))}, {_sense(one)}</figcaption></figure>" for one, plot in plots
    )
    others = {model: one.gains["psnr_y"] for model, one in found.models.items() if model != BASELINE}
    gains = strip_plot("Gain of PSNR-Y over bicubic by image, dB", found.files, others, colour) if others else ""
    return (
        f"<h2>{escape(name)}: {len(found.files)} images</h2><p>{escape(found.source.words)}</p>"
        + _table(name, found, measures)
        + (f"<h3>Gain of PSNR-Y over bicubic by image, dB</h3><figure>{gains}</figure>" if gains else "")
        + "<h3>All measures</h3><p>Box: quartiles and median; whiskers: 5th to 95th percentile; dot: mean.</p>"
        + f'<div class="plots">{figures}</div>'
    )


def _table(name: str, found: SetScores, measures: Sequence[Measure]) -> str:
    head = "".join(f'<th scope="col">{escape(_titled(one))}</th>' for one in measures)
    best = {one.name: _best(one, found) for one in measures}
    rows = []
    for model, scores in found.models.items():
        cells = [
            f"<td{_BEST if model in best[one.name] else ''}>"
            f"{_cell(one, scores.summary.get(one.name), scores.gain.get(one.name))}</td>"
            for one in measures
        ]
        rows.append(f'<tr><th scope="row">{escape(model)}</th>{"".join(cells)}</tr>')
    caption = "Mean; below it the gain over bicubic, the median, and the worst 5 %. Tinted: the best mean."
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Figures of {escape(name)}"><table>'
        f'<caption>{caption}</caption><thead><tr><th scope="col">model</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(one: Measure, summary: Summary | None, gain: Summary | None) -> str:
    if summary is None or gain is None or not summary.images:
        return "–"
    worst = {True: summary.p5, False: summary.p95, None: math.nan}[one.higher_is_better]
    lines = [f"{gain.mean:+.{one.digits}f}", f"median {summary.median:.{one.digits}f}"]
    lines += [f"worst {worst:.{one.digits}f}"] if math.isfinite(worst) else []
    return f"{summary.mean:.{one.digits}f}<small>{'<br>'.join(lines)}</small>"


def _best(one: Measure, found: SetScores) -> set[str]:
    """The models with the best mean, as it is printed."""
    if one.higher_is_better is None:
        return set()
    means = {
        model: round(scores.summary[one.name].mean, one.digits)
        for model, scores in found.models.items()
        if _counted(scores.summary, one)
    }
    target = (max if one.higher_is_better else min)(means.values(), default=math.nan)
    return {model for model, mean in means.items() if mean == target}


def _counted(summary: Mapping[str, Summary], one: Measure) -> bool:
    return one.name in summary and summary[one.name].images > 0


def _crop_section(crop: Crop, word: str) -> str:
    side = crop.truth.shape[0]
    where = f"{crop.label}, {side} x {side} px at x {crop.x}, y {crop.y}"
    errors = crop.errors
    greatest = max(float(np.percentile(one, 99.5)) for one in errors.values())
    scale = side / crop.source.shape[0]
    pictures = [
        picture(crop.truth, f"truth of {where}", "truth", _ENLARGED),
        picture(crop.source, f"source of {where}, each pixel a square", "source (nearest)", _ENLARGED * scale),
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
        f'<div class="pictures">{picture(crop.overview, f"{crop.label} with the crop framed", "where it lies")}'
        f"{''.join(pictures)}</div><h4>Error of luma, grey levels</h4>{heat_scale(greatest, 'grey levels')}"
        f'<div class="pictures">{"".join(maps)}</div>'
    )


def _explanations() -> str:
    items = "".join(
        f"<dt>{escape(_titled(one))}</dt><dd>{escape(one.explanation)} {_sense(one).capitalize()}.</dd>"
        for one in MEASURES
    )
    return f"<h2>What is measured</h2><dl>{items}</dl>"


def _titled(one: Measure) -> str:
    return f"{one.title}, {one.unit}" if one.unit else one.title


def _sense(one: Measure) -> str:
    return {True: "higher is better", False: "lower is better", None: "neither better nor worse"}[one.higher_is_better]
