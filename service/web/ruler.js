/** How large things are: a scale bar of a round length, and the magnification that a microscope would need. */

const LONGEST = 160;

/** Width in screen pixels and label of the bar; `zoom` is screen pixels for each of the slide's. */
export function scaleBar(mpp, zoom) {
  if (!mpp) return { width: LONGEST / 2, label: `${Math.round(LONGEST / 2 / zoom)} px of the slide` };
  const most = (LONGEST * mpp) / zoom;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = power * [5, 2, 1].find((step) => step * power <= most);
  return { width: (length * zoom) / mpp, label: length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(1)} µm` };
}

/** 10 µm of tissue on a pixel of the screen are 1x, as scanners count it. */
export function magnification(mpp, zoom) {
  if (!mpp) return "";
  const power = (10 * zoom) / mpp;
  return `${power >= 10 ? Math.round(power) : power.toPrecision(2)}×`;
}
