/** The view as a PNG that says what it is: names, scale bar and mark are drawn into it. */

/** Draw what the panes show; lengths are in CSS pixels of the stage, `line` is the curtain's place. */
export function snapshot(stage, panes, { words, names, bar, line }) {
  const box = stage.getBoundingClientRect(), ratio = devicePixelRatio;
  const picture = document.createElement("canvas");
  picture.width = box.width * ratio;
  picture.height = box.height * ratio;
  const context = picture.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = "white";
  context.fillRect(0, 0, box.width, box.height);
  const place = (element) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    return [left - box.left, top - box.top, width, height];
  };
  for (const { element, osd } of panes) {
    const [left, top, width, height] = place(element);
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.drawImage(osd.drawer.canvas, left, top, width, height);
    context.globalAlpha = 0.45;
    context.imageSmoothingEnabled = false;
    for (const overlay of element.querySelectorAll("canvas.overlay")) context.drawImage(overlay, ...place(overlay));
    context.restore();
  }
  context.fillStyle = "black";
  if (line !== null) context.fillRect(line * box.width - 1, 0, 2, box.height);
  context.font = "14px system-ui, sans-serif";
  const tag = (text, x, y, align) => {
    if (!text) return;
    const width = context.measureText(text).width + 12;
    const left = align === "right" ? x - width : x;
    context.fillStyle = "rgb(255 255 255 / 0.85)";
    context.fillRect(left, y - 18, width, 24);
    context.fillStyle = "black";
    context.fillText(text, left + 6, y);
  };
  tag(names[0], 8, 26);
  tag(names[1], box.width - 8, 26, "right");
  tag(words[1], 8, box.height - 30);
  tag(words[0], 8, box.height - 58);
  context.fillRect(14, box.height - 18, bar, 4);
  return picture;
}

/** Hand a canvas to the browser as a file. */
export async function save(picture, name) {
  const blob = await new Promise((resolve) => { picture.toBlob(resolve, "image/png"); });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
