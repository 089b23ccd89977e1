// Boxes that are drawn, moved, resized and deleted, by mouse, finger and keys.

const REACH = 8; // pixels on the screen: how near a side has to be touched
const SMALLEST_DRAG = 4; // pixels of the screen; less is a click
const STEP = 1 / 200; // of the image's longer side, that an arrow moves a box

// `scene` has: size() -> { width, height } of what can be edited, or null; objects(), those that are seen; selected;
// select(one); replace(old, new), where null is none; preview(old, new); newName(), the class of what is drawn.
export class Editor {
  #drag = null; // { from, to, old, start, sides, far }

  constructor(canvas, scene) {
    Object.assign(this, { canvas, scene });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#up());
    canvas.addEventListener("pointercancel", () => this.#cancel());
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  // A box in the middle, to be moved and resized.
  add() {
    const { width, height } = this.scene.size();
    const box = [width * 0.375, height * 0.375, width * 0.625, height * 0.625].map(Math.round);
    this.scene.replace(null, drawn(this.scene.newName(), box));
  }

  remove() {
    if (this.scene.selected) this.scene.replace(this.scene.selected, null);
  }

  // Give the selected object other sides, kept inside the image and in order.
  setBox(box_xyxy) {
    const { selected } = this.scene;
    const box = ordered(box_xyxy.map((value, side) => this.#inside(value, side)));
    if (selected && isBox(box)) this.scene.replace(selected, { ...selected, box_xyxy: box, score: null });
  }

  #inside(value, side) {
    const { width, height } = this.scene.size();
    return Math.max(0, Math.min(value, side % 2 ? height : width));
  }

  #place(event) {
    const { width, height } = this.scene.size();
    const frame = this.canvas.getBoundingClientRect();
    return [((event.clientX - frame.left) / frame.width) * width, ((event.clientY - frame.top) / frame.height) * height];
  }

  // Image pixels that a finger or the mouse may be off.
  get #reach() {
    return (REACH * this.scene.size().width) / this.canvas.getBoundingClientRect().width;
  }

  // The sides of the selected box at a place: none, one, or the two of a corner.
  #sidesAt([x, y]) {
    const box = this.scene.selected?.box_xyxy;
    const reach = this.#reach;
    if (!box || x < box[0] - reach || x > box[2] + reach || y < box[1] - reach || y > box[3] + reach) return [];
    const distances = box.map((value, side) => Math.abs(value - (side % 2 ? y : x)));
    const nearest = [distances[0] < distances[2] ? 0 : 2, distances[1] < distances[3] ? 1 : 3];
    return nearest.filter((side) => distances[side] <= reach);
  }

  // The smallest box at a place: one that lies in another can be reached.
  #objectAt([x, y]) {
    const area = ({ box_xyxy: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
    const hit = ({ box_xyxy: [x0, y0, x1, y1] }) => x >= x0 && x <= x1 && y >= y0 && y <= y1;
    return this.scene.objects().filter(hit).sort((a, b) => area(a) - area(b))[0] ?? null;
  }

  #down(event) {
    if (!this.scene.size() || event.button) return;
    const from = this.#place(event);
    const sides = event.shiftKey ? [] : this.#sidesAt(from);
    const { selected } = this.scene;
    const inSelected = selected && selected === this.#objectAt(from);
    const old = event.shiftKey ? null : sides.length || inSelected ? selected : this.#objectAt(from);
    if (!old && event.pointerType === "touch") return this.scene.select(null); // such a drag scrolls
    if (old !== selected) this.scene.select(old);
    if (event.pointerType === "touch" && old !== selected) return;
    this.canvas.setPointerCapture(event.pointerId);
    const start = old?.box_xyxy ?? [...from, ...from];
    this.#drag = { from, old, start, sides: old ? sides : [2, 3], far: false, now: null };
  }

  #move(event) {
    if (!this.scene.size()) return;
    const place = this.#place(event);
    if (!this.#drag) return this.#showCursor(place);
    const { from, old, start, sides } = this.#drag;
    const by = [place[0] - from[0], place[1] - from[1]];
    this.#drag.far ||= Math.max(...by.map(Math.abs)) > (this.#reach * SMALLEST_DRAG) / REACH;
    if (!this.#drag.far) return;
    const box = sides.length ? this.#resized(start, sides, place) : this.#moved(start, by);
    this.#drag.now = old ? { ...old, box_xyxy: box, score: null } : drawn(this.scene.newName(), box);
    this.scene.preview(old, this.#drag.now);
  }

  #resized(start, sides, place) {
    const at = (side) => this.#inside(Math.round(place[side % 2]), side);
    const box = start.map((value, side) => (sides.includes(side) ? at(side) : value));
    return ordered(start[0] === start[2] ? box.map(Math.round) : box); // a new box has whole sides
  }

  #moved(start, by) {
    const size = Object.values(this.scene.size());
    const room = (value, axis) => Math.max(-start[axis], Math.min(value, size[axis] - start[axis + 2]));
    const [dx, dy] = by.map(room).map(Math.round);
    return start.map((value, side) => this.#inside(value + (side % 2 ? dy : dx), side));
  }

  #up() {
    const drag = this.#drag;
    this.#drag = null;
    const box = drag?.now?.box_xyxy;
    if (!box) return;
    if (isBox(box)) this.scene.replace(drag.old, drag.now);
    else this.scene.preview(null, null);
  }

  #cancel() {
    this.#drag = null;
    this.scene.preview(null, null);
  }

  #showCursor(place) {
    const sides = this.#sidesAt(place);
    const [first, second] = sides;
    const corner = sides.length === 2 && (first + second === 1 || first + second === 5 ? "nwse-resize" : "nesw-resize");
    const one = sides.length === 1 && (first % 2 ? "ns-resize" : "ew-resize");
    this.canvas.style.cursor = corner || one || (this.#objectAt(place) ? "move" : "crosshair");
  }

  #key(event) {
    const { selected } = this.scene;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!this.scene.size() || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "n") this.add();
    else if (event.key === "Escape" && selected) this.scene.select(null);
    else if (!selected) return;
    else if (event.key === "Delete" || event.key === "Backspace") this.remove();
    else if (arrow) this.#nudge(arrow, event.shiftKey);
    else return;
    event.preventDefault();
    event.stopPropagation(); // or arrows would lead to the next image too
  }

  // Move the selected box, or its right and lower side.
  #nudge([right, down], resizing) {
    const size = Object.values(this.scene.size());
    const step = Math.max(1, Math.round(Math.max(...size) * STEP));
    const box = this.scene.selected.box_xyxy;
    const [dx, dy] = [right * step, down * step];
    const [x0, y0, x1, y1] = box;
    const resized = [x0, y0, Math.max(x0 + 1, x1 + dx), Math.max(y0 + 1, y1 + dy)];
    this.setBox(resizing ? resized : this.#moved(box, [dx, dy]));
  }
}

function drawn(name, box_xyxy) {
  return { name, score: null, box_xyxy };
}

// True from a pixel on.
function isBox([x0, y0, x1, y1]) {
  return x1 - x0 >= 1 && y1 - y0 >= 1;
}

function ordered([x0, y0, x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}
