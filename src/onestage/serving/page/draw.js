// An image and its boxes on a canvas.

const SMALLEST_SIDE = 700; // pixels of the canvas's longer side; smaller images are enlarged so that tags can be read
const SMALLEST_LETTERS = 11; // height, pixels on the screen
const GRIP = 9; // side, pixels on the screen
const OUTLINE = "rgb(20 20 20)";

// `source` is anything that drawImage takes; boxes are in pixels of `size`. Better ones cover worse ones, and the marked
// one covers all. Those in the set `only`, which another model lacks, are dashed and say so. The selected one has grips.
export function draw(canvas, source, size, objects, { colourOf, marked = null, selected = null, only = new Set() }) {
  const factor = Math.max(1, Math.ceil(SMALLEST_SIDE / Math.max(size.width, size.height)));
  canvas.width = size.width * factor;
  canvas.height = size.height * factor;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  const shrink = canvas.width / (canvas.clientWidth || canvas.width); // canvas pixels per pixel on the screen
  const unit = Math.max(Math.sqrt(canvas.width * canvas.height) / 400, shrink);
  const bestFirst = objects.toSorted((a, b) => (b.score ?? 1) - (a.score ?? 1));
  for (const first of [marked, selected]) {
    if (bestFirst.includes(first)) bestFirst.unshift(...bestFirst.splice(bestFirst.indexOf(first), 1));
  }
  const tags = placedTags(pen, bestFirst, factor, unit, canvas, only);
  for (const one of bestFirst.toReversed()) {
    box(pen, one, factor, colourOf(one.name), unit * (one === marked || one === selected ? 2 : 1), only.has(one));
  }
  for (const tag of tags.toReversed()) write(pen, tag, colourOf(tag.name), unit);
  if (bestFirst.includes(selected)) grips(pen, selected, factor, GRIP * shrink);
}

// What is written at a box and in the list; what a person drew or changed has no score.
export function titleOf(one) {
  return one.score === null ? one.name : `${one.name} ${one.score.toFixed(2)}`;
}

function grips(pen, one, factor, side) {
  const [x0, y0, x1, y1] = one.box_xyxy.map((value) => value * factor);
  pen.fillStyle = "white";
  pen.strokeStyle = OUTLINE;
  pen.lineWidth = side / 5;
  for (const x of [x0, (x0 + x1) / 2, x1]) {
    for (const y of [y0, (y0 + y1) / 2, y1]) {
      if (x === (x0 + x1) / 2 && y === (y0 + y1) / 2) continue;
      pen.fillRect(x - side / 2, y - side / 2, side, side);
      pen.strokeRect(x - side / 2, y - side / 2, side, side);
    }
  }
}

// The colour of a dashed one is broken on a whole dark line, so that it is seen on any ground.
function box(pen, one, factor, colour, unit, dashed) {
  const [x0, y0, x1, y1] = one.box_xyxy.map((side) => side * factor);
  const width = Math.max(2, unit) * (dashed ? 1.5 : 1);
  for (const [style, stroke] of [[OUTLINE, 2 * width], [colour, width]]) {
    pen.strokeStyle = style;
    pen.lineWidth = stroke;
    pen.setLineDash(dashed && style === colour ? [4 * width, 2 * width] : []);
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  pen.setLineDash([]);
}

// Each tag is placed at its box, inside the image, and where possible apart from the tags of better boxes.
function placedTags(pen, bestFirst, factor, unit, canvas, only) {
  const size = Math.max(5 * unit + 7, SMALLEST_LETTERS * unit);
  const height = 1.3 * size;
  pen.font = `500 ${size}px system-ui, sans-serif`;
  const tags = [];
  for (const one of bestFirst) {
    const text = `${titleOf(one)}${only.has(one) ? " · only here" : ""}`;
    const width = pen.measureText(text).width + 0.6 * size;
    const [x0, y0, , y1] = one.box_xyxy.map((side) => side * factor);
    const x = Math.max(0, Math.min(x0, canvas.width - width));
    const places = [y0 - height, y0, y1, y1 - height].map((y) => Math.max(0, Math.min(y, canvas.height - height)));
    const free = (y) => tags.every((t) => x >= t.x + t.width || t.x >= x + width || Math.abs(y - t.y) >= height);
    tags.push({ x, y: places.find(free) ?? places[0], width, height, size, text, name: one.name });
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
