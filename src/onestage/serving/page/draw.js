// An image and its boxes on a canvas.

const SMALLEST_SIDE = 700; // pixels of the canvas's longer side; smaller images are enlarged so that tags can be read
const SMALLEST_LETTERS = 11; // height, pixels on the screen
const OUTLINE = "rgb(20 20 20)";

// `source` is anything that drawImage takes; boxes are in pixels of `size`. Better ones cover worse ones, and the marked
// one covers all.
export function draw(canvas, source, size, detections, colours, marked) {
  const factor = Math.max(1, Math.ceil(SMALLEST_SIDE / Math.max(size.width, size.height)));
  canvas.width = size.width * factor;
  canvas.height = size.height * factor;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  const shrink = canvas.width / (canvas.clientWidth || canvas.width); // canvas pixels per pixel on the screen
  const unit = Math.max(Math.sqrt(canvas.width * canvas.height) / 400, shrink);
  const bestFirst = detections.toSorted((a, b) => b.score - a.score);
  if (marked) bestFirst.unshift(...bestFirst.splice(bestFirst.indexOf(marked), 1));
  const tags = placedTags(pen, bestFirst, factor, unit, canvas);
  for (const one of bestFirst.toReversed()) box(pen, one, factor, colours[one.label], unit * (one === marked ? 2 : 1));
  for (const tag of tags.toReversed()) write(pen, tag, colours[tag.label], unit);
}

function box(pen, one, factor, colour, unit) {
  const [x0, y0, x1, y1] = one.box_xyxy.map((side) => side * factor);
  const width = Math.max(2, unit);
  for (const [style, stroke] of [[OUTLINE, 2 * width], [colour, width]]) {
    pen.strokeStyle = style;
    pen.lineWidth = stroke;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
}

// Each tag is placed at its box, inside the image, and where possible apart from the tags of better boxes.
function placedTags(pen, bestFirst, factor, unit, canvas) {
  const size = Math.max(5 * unit + 7, SMALLEST_LETTERS * unit);
  const height = 1.3 * size;
  pen.font = `500 ${size}px system-ui, sans-serif`;
  const tags = [];
  for (const one of bestFirst) {
    const text = `${one.name} ${one.score.toFixed(2)}`;
    const width = pen.measureText(text).width + 0.6 * size;
    const [x0, y0, , y1] = one.box_xyxy.map((side) => side * factor);
    const x = Math.max(0, Math.min(x0, canvas.width - width));
    const places = [y0 - height, y0, y1, y1 - height].map((y) => Math.max(0, Math.min(y, canvas.height - height)));
    const free = (y) => tags.every((t) => x >= t.x + t.width || t.x >= x + width || Math.abs(y - t.y) >= height);
    tags.push({ x, y: places.find(free) ?? places[0], width, height, size, text, label: one.label });
  }
  return tags;
}

function write(pen, tag, colour, unit) {
  pen.fillStyle = colour;
  pen.fillRect(tag.x, tag.y, tag.width, tag.height);
  pen.strokeStyle = OUTLINE;
  pen.lineWidth = Math.max(1, unit / 2);
  pen.strokeRect(tag.x, tag.y, tag.width, tag.height);
  pen.fillStyle = dark(colour) ? "white" : "black";
  pen.textBaseline = "middle";
  pen.fillText(tag.text, tag.x + 0.3 * tag.size, tag.y + tag.height / 2);
}

// True where white letters read better on this colour (relative luminance, roughly as in WCAG 2).
function dark(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  return 0.2126 * red ** 2.2 + 0.7152 * green ** 2.2 + 0.0722 * blue ** 2.2 < 0.18;
}
