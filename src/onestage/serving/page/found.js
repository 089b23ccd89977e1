// The list of what was found, by which boxes are marked and chosen.

import { titleOf } from "./draw.js";

// Callbacks: `mark(one)` while a row has the focus or the mouse, with null after it; `choose(row)` when it is pressed.
export class FoundList {
  #shown = []; // what the rows say

  constructor(list, callbacks) {
    Object.assign(this, { list, ...callbacks });
  }

  // Rows: { one, which, note, pressed }. Where nothing changed, the list is left as it is: somebody may be in it.
  show(rows) {
    const now = rows.flatMap((row) => Object.values(row));
    if (now.length === this.#shown.length && now.every((fact, place) => fact === this.#shown[place])) return;
    this.#shown = now;
    const place = [...this.list.children].findIndex((item) => item.contains(document.activeElement));
    this.list.replaceChildren(...rows.map((row) => this.#item(row)));
    if (place >= 0) this.list.children[Math.min(place, rows.length - 1)]?.firstChild.focus();
  }

  #item(row) {
    const [item, button, note] = ["li", "button", "span"].map((tag) => document.createElement(tag));
    const [x0, y0, x1, y1] = row.one.box_xyxy;
    Object.assign(button, { type: "button", textContent: titleOf(row.one), title: `x ${x0} to ${x1}, y ${y0} to ${y1}` });
    Object.assign(note, { className: "only", textContent: row.note });
    if (row.note) button.append(note);
    button.setAttribute("aria-pressed", `${row.pressed}`);
    for (const event of ["focus", "mouseenter"]) button.addEventListener(event, () => this.mark(row.one));
    for (const event of ["blur", "mouseleave"]) button.addEventListener(event, () => this.mark(null));
    button.addEventListener("click", () => this.choose(row));
    item.append(button);
    return item;
  }
}
