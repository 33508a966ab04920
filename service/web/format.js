/** Formats numbers, dates and sizes as text. */

const LONGEST_BAR = 160;
const whole = new Intl.NumberFormat("en");
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const joinFacts = (...all) => all.filter(Boolean).join(" · ");

export const formatCount = (number) => whole.format(number);
export const formatSize = (width, height) => `${formatCount(Math.round(width))} × ${formatCount(Math.round(height))} px`;
export const formatDate = (time) => date.format(new Date(time));
export const plural = (number, noun) => `${formatCount(number)} ${noun}${number === 1 ? "" : "s"}`;

export const formatMpp = (mpp) => `${Number(mpp.toPrecision(3))} µm/px`;

/** Equivalent objective magnification: 10 µm/px is 1×. */
export const formatObjective = (mpp) => `${Number((10 / mpp).toPrecision(2))}×`;

export function formatBytes(bytes) {
  const step = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return `${Number((bytes / 1000 ** step).toPrecision(3))} ${["bytes", "kB", "MB", "GB", "TB"][step]}`;
}

export function formatDuration(seconds) {
  if (seconds < 90) return plural(Math.ceil(seconds), "second");
  if (seconds < 5400) return plural(Math.round(seconds / 60), "minute");
  return plural(Math.round(seconds / 3600), "hour");
}

/** Scale bar: width in screen pixels and label; `zoom` is screen pixels per slide pixel. */
export function scaleBar(mpp, zoom) {
  const most = (LONGEST_BAR * (mpp || 1)) / zoom;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = power * [5, 2, 1].find((step) => step * power <= most);
  const label = mpp ? (length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} µm`) : `${length} px`;
  return { width: (length * zoom) / (mpp || 1), label };
}
