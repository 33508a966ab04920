/** How large things are: a scale bar of a round length, and the magnification of a microscope. */

const LONGEST = 160;

/** Width in screen pixels and label of the bar; `zoom` is screen pixels for each of the slide's. */
export function scaleBar(mpp, zoom) {
  const most = (LONGEST * (mpp || 1)) / zoom;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = power * [5, 2, 1].find((step) => step * power <= most);
  const said = mpp ? (length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} µm`) : `${length} px`;
  return { width: (length * zoom) / (mpp || 1), label: said };
}

/** 10 µm of tissue on a pixel of the screen are 1x, as scanners count it. */
export function magnification(mpp, zoom) {
  if (!mpp) return "";
  const power = (10 * zoom) / mpp;
  return `${power >= 10 ? Math.round(power) : power.toPrecision(2)}×`;
}
