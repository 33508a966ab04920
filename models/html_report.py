"""Building blocks of self-contained HTML reports: page, embedded images, heat maps.

A report needs no network and no script.
"""

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
"""From black over violet and orange to pale yellow, in order of brightness."""


def page(title: str, body: str) -> str:
    """Return a whole HTML document; `title` is plain text, `body` is HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )


def picture(pixels: NDArray[np.uint8], alt: str, caption: str, enlarge: float = 1, *, lossless: bool = True) -> str:
    """Embed an image, uint8 (h, w, 3), with a caption; enlarged pixels are drawn as squares.

    PNG if `lossless`, else JPEG, which is a tenth of the size.
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
    """Map values (h, w) from 0 to `greatest` to colours (h, w, 3); values that are not finite become light grey."""
    share = np.clip(np.nan_to_num(values) / (greatest or 1), 0, 1) * (len(_HEAT) - 1)
    channels = [np.interp(share, range(len(_HEAT)), _HEAT[:, channel]) for channel in range(3)]
    colour = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    colour[~np.isfinite(values)] = 225
    return colour


def heat_scale(greatest: float, unit: str) -> str:
    """Return the colour bar of `heat`."""
    ramp = heat(np.tile(np.linspace(0, 1, 128), (10, 1)), 1.0)
    return picture(ramp, f"colour scale from 0 to {greatest:.3g} {unit}", f"0 to {greatest:.3g} {unit}", 2)
