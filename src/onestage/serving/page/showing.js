// What is seen: boxes on the image, the list of what was found, the fields of a box, how far the images are.

import { draw } from "./draw.js";
import { FoundList } from "./found.js";
import { FIRST, SECOND, SIDES, at, comparing, editable, isOurs, scene, seen, shownModel, titles, view } from "./state.js";

function render(marked = null, { lists, only, counts } = scene()) {
  const { entry, source } = view;
  const failed = entry?.state === "failed";
  at("drop").hidden = Boolean(entry) && !(failed && !source && view.images.entries.length <= 1);
  for (const [which, id] of ["canvas", "canvas-second"].entries()) {
    const figure = at(id).parentElement;
    figure.hidden = !["both", ["first", "second"][which]].includes(shownModel());
    at(id).hidden = !source || figure.hidden;
    if (at(id).hidden) continue;
    const { old, now } = (which === FIRST && view.preview) || {};
    const objects = now ? [...lists[which].filter((one) => one !== old), now] : lists[which];
    const size = { width: entry.width ?? source.width, height: entry.height ?? source.height };
    const colourOf = (name) => view.classes.colourOf(name);
    draw(at(id), source, size, objects, { colourOf, marked, selected: now ?? view.selected, only: only[which] });
    at(id).setAttribute("aria-label", `${entry.name} with ${objects.length} boxes`);
  }
  at("canvas").classList.toggle("editing", Boolean(view.selected));
  if (entry) at("status").textContent = inWords(entry, lists, counts);
  at("compare").hidden = at("views").hidden = !entry;
  if (failed || !comparing()) at("compare").hidden = true;
  showError(entry);
}

function showError(entry) {
  const error = entry?.error ?? view.error;
  const unseen = entry?.unreadable && entry.state === "done";
  const because = unseen ? `${entry.name}: this browser can't show it; the list has its detections` : "";
  at("error").textContent = error?.message ?? because;
  at("error").hidden = !at("error").textContent;
  if (error?.status === 401) at("token-form").hidden = false;
}

function inWords({ state, name, width, height, timing }, lists, counts) {
  if (state === "failed") return "";
  if (state !== "done") return `looking at ${name} …`;
  const ms = (value) => `${Math.round(value ?? 0)} ms`;
  const found = comparing()
    ? `${counts.both} found by both, ${counts.first} by ${titles()[0]} only, ${counts.second} by ${titles()[1]} only,`
    : `${lists[0].length} found`;
  return (
    `${found} in ${name}, ${width} × ${height}: ${ms(timing.all)} in all, ` +
    `${ms(timing.network)} of it for the network, ${ms(timing.wait)} for decoding and waiting`
  );
}

function listFound({ lists, only }) {
  const models = { both: [FIRST, SECOND], first: [FIRST], second: [SECOND] }[shownModel()];
  const rows = models.flatMap((which) => {
    const objects = which === SECOND && shownModel() === "both" ? [...only[SECOND]] : lists[which];
    const note = (one) => (only[which].has(one) ? ` · ${titles()[which]} only` : "");
    return objects.map((one) => ({ one, which, note: note(one), pressed: one === view.selected }));
  });
  at("found-title").textContent = view.entry?.state === "done" ? `Found: ${rows.length}` : "Found";
  foundList.show(rows);
}

const foundList = new FoundList(at("found"), {
  mark: (one) => render(one),
  choose({ one, which }) {
    select(one);
    if (editable() && which === FIRST) at("canvas").focus(); // where keys move it
  },
});

let edited = null; // the object that the fields show
export function showCorrections() {
  const ours = isOurs();
  at("corrections").hidden = !editable() || shownModel() === "second";
  at("selected").disabled = at("delete-box").disabled = !ours;
  at("undo").disabled = !view.entry?.past.length;
  at("take").hidden = !(view.selected && !ours);
  if (view.selected !== edited) { // else somebody may be typing
    at("object-class").value = ours ? view.selected.name : "";
    for (const side of SIDES) at(`side-${side}`).value = ours ? Number(view.selected.box_xyxy[side].toFixed(2)) : "";
  }
  edited = view.selected;
  at("save-all-voc").hidden = at("only-corrected-row").hidden = view.images.entries.length < 2;
}

function showProgress() {
  const { waiting, asked, done, failed } = view.images.counts();
  const all = view.images.entries.length;
  const working = waiting + asked > 0;
  at("images").hidden = all < 2;
  at("progress").setAttribute("aria-live", working ? "off" : "polite");
  const more = [failed && `, ${failed} failed`, view.images.stopped && ", stopped", view.note].filter(Boolean).join("");
  at("progress").textContent = `${done + failed} of ${all}${more}`;
  Object.assign(at("bar"), { max: Math.max(all, 1), value: done + failed, hidden: !working });
  at("stop").hidden = !working && !failed;
  at("stop").textContent = !working ? "Try again" : view.images.stopped ? "Go on" : "Stop";
  const place = view.images.entries.indexOf(view.images.current);
  at("previous").disabled = place < 1;
  at("next").disabled = place > all - 2;
}

// Another image than the open one is done: nothing else changes.
export function oneMore(entry) {
  if (!entry || entry === view.entry) {
    update();
    return;
  }
  sayFound(entry);
  showProgress();
}

function sayFound(entry) {
  view.images.say(entry, entry.state === "done" ? seen(entry, FIRST).length : null);
}

// Thresholds or classes were changed, which counts in all images.
export function filter() {
  update();
  for (const entry of view.images.entries) sayFound(entry);
}

let planned = false;
// Show all anew, once before the next frame of the screen.
export function update() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    if (!view.classes) return;
    const now = scene();
    render(null, now);
    listFound(now);
    const done = view.entry?.state === "done";
    view.classes.showCounts(done ? seenWhatever(view.entry) : null);
    for (const id of ["another", "another-folder"]) at(id).disabled = !view.entry;
    at("save-image").disabled = !view.source || !done;
    at("save-json").disabled = !done;
    showCorrections();
    showProgress();
    if (view.entry) sayFound(view.entry);
  });
}

export function select(one) {
  view.selected = one;
  update();
}

// Of hidden classes too: how many would be seen.
function seenWhatever(entry) {
  const { hidden } = view.classes;
  view.classes.hidden = new Set();
  const objects = seen(entry, shownModel() === "second" ? SECOND : FIRST);
  view.classes.hidden = hidden;
  return objects;
}

export function fail(error) {
  view.error = error;
  showError(view.entry);
}

export function showFilm() {
  const film = view.film;
  if (!film) return;
  at("play").textContent = film.playing ? "Stop" : "Play";
  at("seek").hidden = film.live;
  at("seek").max = film.duration;
  at("seek").value = film.time;
  const seconds = (film.time % 60).toFixed(1).padStart(4, "0");
  at("clock").textContent = film.live ? "live" : `${Math.floor(film.time / 60)}:${seconds}`;
}

// At once: who goes on to the next field may type there before the next frame of the screen.
export function showWhatCameOfIt() {
  edited = null;
  showCorrections();
  update();
}
