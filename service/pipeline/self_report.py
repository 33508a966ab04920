"""The self-evaluation of a slide as one HTML file, with tables, plots and maps."""

from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidelift.models.evaluate import BASELINE, Summary
from slidelift.models.html_report import heat, heat_scale, page, picture
from slidelift.models.svg_plots import box_plot, colours, legend
from slidelift.service.pipeline.self_evaluation import SelfEvaluation
from slidelift.wsi.slide import Pixels

_OVERVIEW = 480
"""Longer side of every map in pixels."""
_TITLES = {"psnr_y": "PSNR-Y, dB", "ssim_y": "SSIM-Y", "rmse": "RMSE, grey levels", "consistency": "consistency, dB"}
_DIGITS = {"psnr_y": 2, "ssim_y": 4, "rmse": 2, "consistency": 2}


def slide_report(evaluation: SelfEvaluation, *, crops: bool = True) -> str:
    """Render the evaluation as an HTML document; without `crops` it shows no pixels of the slide."""
    plan, colour = evaluation.plan, colours(evaluation.models, BASELINE)
    size = "µm per pixel unknown" if evaluation.mpp is None else f"{evaluation.mpp[0]:.4g} µm per pixel"
    parts = [
        f"<p>{evaluation.size[0]} x {evaluation.size[1]} px, {size}. "
        f"{len(evaluation.tiles)} tiles of {plan.core} px with tissue, "
        f"reduced by {plan.scale}, enlarged again and compared to level 0. Background is left out. "
        f"{escape(evaluation.source.description)} {escape(evaluation.computed_on_words)}</p>",
        *(f"<p><b>Warning:</b> {escape(warning)}</p>" for warning in evaluation.warnings),
        legend(colour),
        _table(evaluation),
        "<h2>Over the slide</h2>",
    ]
    if crops and evaluation.overview is not None:
        parts.append(picture(_small(evaluation.overview), "the slide, made small", "the slide"))
    parts += [_maps(evaluation, "psnr_y_gain", "gain of PSNR-Y over bicubic, dB", tuple(colour)[1:] or (BASELINE,))]
    parts += [_maps(evaluation, "rmse", "RMSE over RGB, grey levels", evaluation.models)]
    plots = [
        box_plot(
            title, {m: [t.values[m][key] for t in evaluation.tiles] for m in evaluation.models}, colour, _DIGITS[key]
        )
        for key, title in _TITLES.items()
    ]
    figures = "".join(
        f"<figure>{plot}<figcaption>{escape(title)}</figcaption></figure>"
        for plot, title in zip(plots, _TITLES.values(), strict=True)
    )
    parts += [f'<h2>Over the tiles</h2><div class="plots">{figures}</div>']
    return page(f"{evaluation.name} against itself", "\n".join(parts))


def _table(evaluation: SelfEvaluation) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in _TITLES.values())
    rows = []
    for model in evaluation.models:
        cells = []
        for key in _TITLES:
            digits = _DIGITS[key]
            one = Summary.of(tile.values[model][key] for tile in evaluation.tiles)
            worst = one.p95 if key == "rmse" else one.p5
            below = f"median {one.median:.{digits}f}<br>worst {worst:.{digits}f}"
            cells.append(f"<td>{one.mean:.{digits}f}<small>{below}</small></td>")
        gain = Summary.of(tile.gain(model) for tile in evaluation.tiles)
        cells.append(f"<td>{gain.mean:+.2f}<small>median {gain.median:+.2f}<br>worst {gain.p5:+.2f}</small></td>")
        cells.append(f"<td>{evaluation.pooled_psnr_y(model):.2f}</td>")
        rows.append(f'<tr><th scope="row">{escape(model)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures"><table>'
        "<caption>Mean over the tiles, the median, and the worst 5 %.</caption>"
        f'<thead><tr><th scope="col">model</th>{head}<th scope="col">gain, dB</th>'
        f'<th scope="col">PSNR-Y of all pixels, dB</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _maps(evaluation: SelfEvaluation, measure: str, title: str, models: tuple[str, ...]) -> str:
    """Draw one map per model on a common scale; a loss against bicubic is drawn as no gain, and the caption has it."""
    grids = {model: evaluation.grid(model, measure) for model in models}
    finite = np.concatenate([grid[np.isfinite(grid)] for grid in grids.values()])
    greatest = max(float(finite.max(initial=0)), 1e-6)
    pictures = [
        picture(
            heat(_enlarged(grid), greatest),
            f"map of {title} of {model} over the slide; light grey: not measured",
            f"{model}: {_range(grid)}",
        )
        for model, grid in grids.items()
    ]
    return (
        f"<h3>{escape(title[0].upper() + title[1:])}</h3>{heat_scale(greatest, '')}"
        f'<div class="pictures">{"".join(pictures)}</div>'
    )


def _range(grid: NDArray[np.float64]) -> str:
    finite = grid[np.isfinite(grid)]
    return f"{finite.min():.2f} to {finite.max():.2f}" if finite.size else "infinite"


def _enlarged(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw each cell as a square, so that the longer side has about `_OVERVIEW` pixels."""
    side = max(1, _OVERVIEW // max(grid.shape))
    return grid.repeat(side, axis=0).repeat(side, axis=1)


def _small(pixels: Pixels) -> Pixels:
    small = Image.fromarray(pixels)
    small.thumbnail((_OVERVIEW, _OVERVIEW), Image.Resampling.BICUBIC)
    return np.asarray(small)
