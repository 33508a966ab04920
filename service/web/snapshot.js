/** Saves the view as a PNG with layer names, scale bar and the notice that the image is computed. */

export function snapshot({ stage, line, left, right, mark, bar, length, power, ruler }, panes) {
  const box = stage.getBoundingClientRect(), ratio = devicePixelRatio;
  const image = document.createElement("canvas");
  image.width = Math.round(box.width * ratio);
  image.height = Math.round(box.height * ratio);
  const context = image.getContext("2d");
  const boxOf = (element) => {
    const place = element.getBoundingClientRect();
    return [place.left - box.left, place.top - box.top, place.width, place.height];
  };
  context.scale(ratio, ratio);
  context.fillStyle = "white";
  context.fillRect(0, 0, box.width, box.height);
  for (const { element, osd } of panes) {
    const place = boxOf(element);
    context.save();
    context.beginPath();
    context.rect(...place);
    context.clip();
    context.drawImage(osd.drawer.canvas, ...place);
    context.globalAlpha = 0.45;
    context.imageSmoothingEnabled = false;
    for (const overlay of element.querySelectorAll("canvas.overlay")) context.drawImage(overlay, ...boxOf(overlay));
    context.restore();
  }
  const paint = (colour, ...place) => {
    context.fillStyle = colour;
    context.fillRect(...place);
  };
  if (!line.hidden) {
    const middle = boxOf(line)[0] + line.offsetWidth / 2;
    paint("white", middle - 2, 0, 4, box.height);
    paint("black", middle - 1, 0, 2, box.height);
  }
  const isShown = (element) => !element.hidden && element.textContent;
  for (const one of [left, right, mark, bar].filter(isShown)) paint("rgb(255 255 255 / 0.88)", ...boxOf(one));
  context.fillStyle = "black";
  context.textBaseline = "middle";
  for (const one of [left, right, mark, length, power].filter(isShown)) {
    const [x, y, width, height] = boxOf(one), { font, paddingLeft } = getComputedStyle(one);
    context.font = font;
    context.fillText(one.textContent, x + parseFloat(paddingLeft), y + height / 2, width);
  }
  const [x, y, width, height] = boxOf(ruler);
  paint("black", x, y + height - 3, width, 3);
  return image;
}

export async function save(image, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await new Promise((resolve) => { image.toBlob(resolve); }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
