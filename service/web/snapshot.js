/** The view as a PNG that says what it is: names, scale bar and mark are drawn into it. */

/** Draw what the panes show, and what stands over them. */
export function snapshot({ stage, line, left, right, mark, length, power, ruler }, panes) {
  const box = stage.getBoundingClientRect(), ratio = devicePixelRatio;
  const picture = document.createElement("canvas");
  picture.width = box.width * ratio;
  picture.height = box.height * ratio;
  const context = picture.getContext("2d");
  const placeOf = (element) => {
    const place = element.getBoundingClientRect();
    return [place.left - box.left, place.top - box.top, place.width, place.height];
  };
  context.scale(ratio, ratio);
  context.fillStyle = "white";
  context.fillRect(0, 0, box.width, box.height);
  for (const { element, osd } of panes) {
    const place = placeOf(element);
    context.save();
    context.beginPath();
    context.rect(...place);
    context.clip();
    context.drawImage(osd.drawer.canvas, ...place);
    context.globalAlpha = 0.45;
    context.imageSmoothingEnabled = false;
    for (const overlay of element.querySelectorAll("canvas.overlay")) context.drawImage(overlay, ...placeOf(overlay));
    context.restore();
  }
  for (const element of [left, right, mark, length, power]) {
    if (element.hidden || !element.textContent) continue;
    const [x, y, width, height] = placeOf(element);
    context.fillStyle = "rgb(255 255 255 / 0.85)";
    context.fillRect(x, y, width, height);
    context.fillStyle = "black";
    context.font = `${0.6 * height}px system-ui, sans-serif`;
    context.fillText(element.textContent, x + 0.3 * height, y + 0.7 * height, width - 0.4 * height);
  }
  const [x, y, width, height] = placeOf(ruler);
  context.fillStyle = "black";
  context.fillRect(x, y + height - 3, width, 3);
  if (!line.hidden) context.fillRect(placeOf(line)[0] + line.offsetWidth / 2 - 1, 0, 2, box.height);
  return picture;
}

/** Hand a canvas to the browser as a file. */
export async function save(picture, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await new Promise((resolve) => { picture.toBlob(resolve); }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
