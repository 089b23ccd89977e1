// Which classes are shown, and from which score on: a threshold a class and a model.

import { at } from "./state.js";

const COLLAPSED_FROM = 20; // more classes than these are folded in, with a field to search them
const OTHER_COLOUR = "#9aa6b8"; // of classes that a person made up

export class Classes {
  hidden = new Set(); // names
  #thresholds = []; // of each model: name -> score

  // `models`: facts of one model, or two; `changed()` follows each change by a person.
  constructor(models, changed) {
    this.models = models;
    this.names = [...new Set(models.flatMap((model) => model.names))];
    const byName = (model, values) => model.names.map((name, label) => [name, values[label]]);
    this.colours = new Map(models.toReversed().flatMap((model) => byName(model, model.colours)));
    this.#thresholds = models.map((model) => new Map(byName(model, model.usual_score_thresholds)));
    this.changed = changed;
    this.#build();
  }

  colourOf(name) {
    return this.colours.get(name) ?? OTHER_COLOUR;
  }

  // True for an object of a model that is to be seen. What a person drew has no score.
  isShown(one, which) {
    const threshold = this.#thresholds[which].get(one.name) ?? 0;
    return !this.hidden.has(one.name) && (one.score === null || one.score > threshold);
  }

  // Write how many there are of each class; null where no image is shown.
  showCounts(objects) {
    const counts = new Map();
    for (const one of objects ?? []) counts.set(one.name, (counts.get(one.name) ?? 0) + 1);
    for (const row of at("classes").children) {
      row.querySelector(".count").textContent = objects ? (counts.get(row.dataset.name) ?? 0) : "";
    }
  }

  setAll(which, score) {
    for (const name of this.#thresholds[which].keys()) this.#thresholds[which].set(name, score);
    const fields = at("classes").querySelectorAll(`input[data-which="${which}"]:enabled`);
    for (const field of fields) field.value = score.toFixed(2);
    this.#showRange(which);
  }

  // Show or hide all classes, or those that the search leaves.
  checkAll(checked) {
    for (const row of at("classes").children) {
      if (row.hidden) continue;
      row.querySelector("[type=checkbox]").checked = checked;
      this.hidden[checked ? "delete" : "add"](row.dataset.name);
    }
  }

  search(text) {
    const wanted = text.trim().toLowerCase();
    for (const row of at("classes").children) row.hidden = !row.dataset.name.toLowerCase().includes(wanted);
  }

  #build() {
    const many = this.names.length > COLLAPSED_FROM;
    at("class-box").open = !many;
    at("class-search-row").hidden = !many;
    at("class-title").textContent = `Classes and their scores (${this.names.length})`;
    at("classes").replaceChildren(...this.names.map((name) => this.#row(name)));
    at("threshold-row-second").hidden = this.models.length < 2;
    for (const which of this.models.keys()) this.#showRange(which);
  }

  #row(name) {
    const [row, label, swatch, count] = ["li", "label", "span", "span"].map((tag) => document.createElement(tag));
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !this.hidden.has(name) });
    box.addEventListener("change", () => {
      this.hidden[box.checked ? "delete" : "add"](name);
      this.changed();
    });
    swatch.className = "swatch";
    swatch.style.background = this.colourOf(name);
    count.className = "count";
    label.append(box, swatch, name, count);
    row.dataset.name = name;
    row.className = this.models.length > 1 ? "two" : "";
    row.append(label, ...this.models.map((_, which) => this.#field(name, which)));
    return row;
  }

  #field(name, which) {
    const scores = this.#thresholds[which];
    const field = document.createElement("input");
    const { lowest_score_threshold: min, title } = this.models[which];
    Object.assign(field, { type: "number", min, max: 1, step: 0.01, disabled: !scores.has(name) });
    field.value = scores.get(name)?.toFixed(2) ?? "";
    field.dataset.which = which;
    field.setAttribute("aria-label", `Score above for ${name}${this.models.length > 1 ? `, ${title}` : ""}`);
    field.addEventListener("input", () => {
      if (!field.validity.valid || field.value === "") return;
      scores.set(name, Number(field.value));
      this.#showRange(which);
      this.changed();
    });
    return field;
  }

  // The slider for all classes stands at the lowest score.
  #showRange(which) {
    const suffix = which ? "-second" : "";
    const scores = [...this.#thresholds[which].values()];
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    at(`threshold${suffix}`).min = this.models[which].lowest_score_threshold;
    at(`threshold${suffix}`).value = low;
    const range = low === high ? low.toFixed(2) : `${low.toFixed(2)} to ${high.toFixed(2)}`;
    at(`threshold-value${suffix}`).textContent = range;
  }
}
