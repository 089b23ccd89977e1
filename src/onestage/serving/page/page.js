// The page: images, a video or the camera in; boxes, thresholds, two models beside each other, corrections.

import * as api from "./api.js";
import { Classes } from "./classes.js";
import { Editor } from "./edit.js";
import { chosenFiles, droppedFiles } from "./files.js";
import { Film } from "./film.js";
import { Images, MOST_IMAGES } from "./images.js";
import { fail, filter, oneMore, select, showCorrections, showFilm, showWhatCameOfIt, update } from "./showing.js";
import { FIRST, SECOND, SIDES, at, comparing, editable, isOurs, seen, shownModel, titles, view } from "./state.js";
import { vocXml, xmlPaths, zip } from "./voc.js";

// ---------------------------------------------------------------------------------------------- requests

function keepToken(token) {
  view.token = token;
  sessionStorage.setItem("token", token);
}

async function connect() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    keepToken(given);
    history.replaceState(null, "", location.pathname); // it does not stay in the address
  }
  try {
    const first = await api.model("first", view.token);
    const others = await Promise.all(first.models.slice(1).map((which) => api.model(which, view.token)));
    view.models = [first, ...others];
  } catch (error) {
    at("model").textContent = "not connected";
    fail(error);
    return;
  }
  view.error = null;
  at("token-form").hidden = true;
  const facts = view.models.map((model) => `${model.detector}, ${model.names.length} classes`);
  const named = facts.map((text, which) => `${titles()[which]}: ${text}`);
  at("model").textContent = comparing() ? named.join(" · ") : facts[0];
  view.classes = new Classes(view.models, filter);
  at("class-names").replaceChildren(...view.classes.names.map((name) => new Option(name, name)));
  if (comparing()) {
    for (const [which, id] of ["first", "second"].entries()) {
      at(`name-${id}`).textContent = at(`view-${id}`).firstElementChild.textContent = titles()[which];
      at(`threshold-title${which ? "-second" : ""}`).textContent = `, ${titles()[which]}`;
      at(`view-${id}`).firstElementChild.hidden = false;
    }
    at("views").classList.add("two");
  }
  if (images.entries.some((entry) => entry.error?.status === 401)) images.tryAgain();
  update();
}

// Fill an entry with what the models find.
async function detect(entry, signal) {
  const [{ largest_request_bytes: most, lowest_score_threshold: threshold }] = view.models;
  const fault = (why) => new api.Refused(why.status, `${entry.name}: ${why.message.replace(/^image: /, "")}`);
  const { size } = entry.file;
  if (size > most) throw fault(new Error(`${size.toLocaleString()} bytes; the server takes ${most.toLocaleString()}`));
  const answers = [];
  for (const model of view.models.length > 1 ? ["first", "second"] : ["first"]) {
    try {
      answers.push(await api.detect(entry.file, { model, threshold, token: view.token, signal }));
    } catch (error) {
      throw error.name === "AbortError" || error.status === 401 ? error : fault(error);
    }
  }
  const [{ width, height, timing, detections }, second] = answers;
  Object.assign(entry, { width, height, timing, objects: detections, second: second?.detections ?? [] });
}

const images = (view.images = new Images(at("strip"), { detect, opened: show, changed: oneMore }));

// ---------------------------------------------------------------------------------------------- images, videos, camera

let decoding = Promise.resolve();
// Show an image of the strip. One is decoded at a time; those that were left meanwhile are passed over.
async function show(entry) {
  const request = begin();
  display(entry, null);
  await (decoding = decoding.then(async () => {
    if (request !== view.newest) return;
    const source = await createImageBitmap(entry.file).catch(() => null); // upright, as the server has it
    if (request !== view.newest) return source?.close();
    entry.unreadable = !source;
    display(entry, source);
  }));
}

function display(entry, source) {
  if (entry !== view.entry) view.selected = view.preview = null;
  if (source !== view.source) view.source?.close?.();
  Object.assign(view, { entry, source });
  update();
}

async function take({ files, others }) {
  await connecting; // who is quick drops files before the server has told of its model
  if (!view.models || files.length + others === 0) return;
  const [only] = files;
  if (files.length === 1 && only.file.type.startsWith("video/")) {
    openFilm((film) => film.openFile(only.file));
    return;
  }
  const taken = images.add(files);
  view.note = others ? `; other files passed over: ${others}` : "";
  if (taken < files.length) view.note += `; the first ${MOST_IMAGES.toLocaleString()} images are taken`;
  update();
}

async function openFilm(begun) {
  if (!view.models) return;
  const request = begin();
  const film = new Film(at("video"), (still, image, name) => showFrame(still, image, name, request), showFilm);
  view.film = film;
  at("film").hidden = false;
  try {
    await begun(film);
  } catch (error) {
    const refused = "the browser was not allowed to use the camera; allow it in the browser's settings";
    if (request === view.newest) fail(error.name === "NotAllowedError" ? new Error(refused) : error);
  }
}

async function showFrame(still, file, name, request) {
  const entry = Images.loose(file, name);
  await detect(entry);
  entry.state = "done";
  if (request === view.newest) display(entry, still);
}

function begin() {
  view.film?.close();
  view.film = null;
  view.error = null;
  at("film").hidden = true;
  return ++view.newest;
}

// ---------------------------------------------------------------------------------------------- corrections

function replace(old, now) {
  const { entry } = view;
  entry.past.push(entry.objects);
  entry.objects = old ? entry.objects.map((one) => (one === old ? now : one)).filter(Boolean) : [...entry.objects, now];
  view.preview = null;
  view.unsaved = true;
  select(now);
  showCorrections(); // at once, as below
}

function undo() {
  if (!view.entry?.past.length) return;
  view.entry.objects = view.entry.past.pop();
  select(null);
}

const editor = new Editor(at("canvas"), {
  size: () => (editable() ? { width: view.entry.width, height: view.entry.height } : null),
  objects: () => seen(view.entry, FIRST),
  get selected() {
    return isOurs() ? view.selected : null;
  },
  select,
  replace,
  preview(old, now) {
    view.preview = now && { old, now };
    update();
  },
  newName: () => at("object-class").value || view.entry.objects[0]?.name || view.classes.names[0],
});

// ---------------------------------------------------------------------------------------------- saving

function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stem = (name) => name.replace(/\.\w+$/, "");
const xmlOf = (entry) => vocXml(entry.name, entry, seen(entry, FIRST));

function saveJson() {
  const { name, width, height } = view.entry;
  const which = shownModel() === "second" ? SECOND : FIRST;
  const detections = seen(view.entry, which).map(({ name, score, box_xyxy }) => {
    return { name, label: view.models[which].names.indexOf(name), score: score ?? 1, box_xyxy };
  });
  const text = JSON.stringify([{ source: name, width, height, detections }], null, 2);
  save(new Blob([text], { type: "application/json" }), `${stem(name)}-detections.json`);
}

function saveAllVoc() {
  const all = !at("only-corrected").checked;
  const chosen = images.entries.filter(({ state, past }) => state === "done" && (all || past.length));
  const paths = xmlPaths(chosen.map((entry) => entry.path));
  save(zip(chosen.map((entry, row) => ({ path: paths[row], text: xmlOf(entry) }))), "annotations.zip");
  view.unsaved = false;
}

// ---------------------------------------------------------------------------------------------- events

const on = (id, event, react) => at(id).addEventListener(event, react);

on("token-form", "submit", (event) => {
  event.preventDefault();
  keepToken(at("token").value);
  connect();
});
for (const [which, id] of ["threshold", "threshold-second"].entries()) {
  on(id, "input", () => {
    view.classes?.setAll(which, Number(at(id).value));
    filter();
  });
}
for (const [id, checked] of [["all", true], ["none", false]]) {
  on(id, "click", () => {
    view.classes?.checkAll(checked);
    filter();
  });
}
on("class-search", "input", () => view.classes.search(at("class-search").value));
on("compare", "change", () => select(null));

for (const id of ["choose", "another"]) on(id, "click", () => at("file").click());
for (const id of ["choose-folder", "another-folder"]) on(id, "click", () => at("folder").click());
for (const id of ["file", "folder"]) {
  on(id, "change", () => {
    take(chosenFiles(at(id)));
    at(id).value = ""; // so that the same file can be chosen again
  });
}
on("camera", "click", () => openFilm((film) => film.openCamera()));
on("play", "click", () => view.film?.toggle().catch(fail));
on("seek", "change", async () => {
  const film = view.film;
  await film.seek(Number(at("seek").value));
  if (!film.playing) await film.frame().catch(fail);
});

on("previous", "click", () => images.step(-1));
on("next", "click", () => images.step(1));
on("stop", "click", () => {
  const { waiting, asked } = images.counts();
  if (!waiting && !asked) images.tryAgain();
  else if (images.stopped) images.goOn();
  else images.stop();
});
on("clear", "click", () => {
  if (view.unsaved && !confirm("Corrections are not saved. Remove all images?")) return;
  begin();
  images.clear();
  Object.assign(view, { unsaved: false, note: "" });
  display(null, null);
  at("status").textContent = "";
  at("choose").focus();
});

on("new-box", "click", () => {
  editor.add();
  at("canvas").focus();
});
on("delete-box", "click", () => editor.remove());
on("undo", "click", undo);
on("take", "click", () => replace(null, { ...view.selected, score: null }));
on("object-class", "change", () => {
  const name = at("object-class").value.trim();
  if (isOurs() && name) replace(view.selected, { ...view.selected, name, score: null });
  showWhatCameOfIt();
});
for (const side of SIDES) {
  on(`side-${side}`, "change", () => {
    const box = SIDES.map((one) => at(`side-${one}`).valueAsNumber);
    if (box.every(Number.isFinite)) editor.setBox(box);
    showWhatCameOfIt();
  });
}

on("save-image", "click", () => {
  const canvas = at(shownModel() === "second" ? "canvas-second" : "canvas");
  canvas.toBlob((png) => save(png, `${stem(view.entry.name)}-detections.png`), "image/png");
});
on("save-json", "click", saveJson);
on("save-voc", "click", () => {
  save(new Blob([xmlOf(view.entry)], { type: "text/xml" }), `${stem(view.entry.name)}.xml`);
  if (images.entries.length === 1) view.unsaved = false;
});
on("save-all-voc", "click", saveAllVoc);

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea")) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
  else if (by && !event.ctrlKey && !event.altKey && !event.metaKey && images.entries.length > 1) images.step(by);
  else return;
  event.preventDefault();
});
document.addEventListener("paste", (event) => take(chosenFiles(event.clipboardData)));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("stage").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("stage").classList.remove("over");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  at("stage").classList.remove("over");
  take(await droppedFiles(event.dataTransfer));
});
addEventListener("beforeunload", (event) => {
  if (view.unsaved) event.preventDefault();
});
addEventListener("hashchange", connect);
addEventListener("resize", update);
const connecting = connect();
