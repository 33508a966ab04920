/** The view as a PNG that says what it is: names, scale bar and mark are drawn into it. */

/** Draw what the panes show, and what stands over them. */
export function snapshot({ stage, line, left, right, mark, bar, length, power, ruler }, panes) {
  const box = stage.getBoundingClientRect(), ratio = devicePixelRatio;
  const picture = document.createElement("canvas");
  picture.width = Math.round(box.width * ratio);
  picture.height = Math.round(box.height * ratio);
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
  const paint = (colour, ...place) => {
    context.fillStyle = colour;
    context.fillRect(...place);
  };
  if (!line.hidden) {
    const middle = placeOf(line)[0] + line.offsetWidth / 2;
    paint("white", middle - 2, 0, 4, box.height);
    paint("black", middle - 1, 0, 2, box.height);
  }
  const said = (element) => !element.hidden && element.textContent;
  for (const one of [left, right, mark, bar].filter(said)) paint("rgb(255 255 255 / 0.88)", ...placeOf(one));
  context.fillStyle = "black";
  context.textBaseline = "middle";
  for (const one of [left, right, mark, length, power].filter(said)) {
    const [x, y, width, height] = placeOf(one), { font, paddingLeft } = getComputedStyle(one);
    context.font = font;
    context.fillText(one.textContent, x + parseFloat(paddingLeft), y + height / 2, width);
  }
  const [x, y, width, height] = placeOf(ruler);
  paint("black", x, y + height - 3, width, 3);
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
