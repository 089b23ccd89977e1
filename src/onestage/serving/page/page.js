// The page: an image, a video or the camera in; boxes, a threshold and a choice of classes.

import * as api from "./api.js";
import { draw } from "./draw.js";
import { Film } from "./film.js";

const at = (id) => document.getElementById(id);
const view = {
  model: null, // facts from the server
  token: sessionStorage.getItem("token") ?? "",
  shown: null, // { name, source, width, height, detections, timing }; source is null where the browser can't show it
  hidden: new Set(), // labels
  film: null,
  newest: 0, // number of the newest request: an answer to an older one is not shown
};

// ---------------------------------------------------------------------------------------------- view

function visible() {
  const threshold = Number(at("threshold").value);
  return view.shown?.detections.filter((one) => one.score > threshold && !view.hidden.has(one.label)) ?? [];
}

function render(marked = null) {
  const threshold = Number(at("threshold").value);
  at("threshold-value").textContent = threshold.toFixed(2);
  const counts = new Map();
  for (const one of view.shown?.detections ?? []) {
    if (one.score > threshold) counts.set(one.label, (counts.get(one.label) ?? 0) + 1);
  }
  for (const count of at("classes").querySelectorAll(".count")) {
    count.textContent = view.shown ? (counts.get(Number(count.dataset.label)) ?? 0) : "";
  }
  if (!view.shown) return;
  const found = visible();
  const { source, name, width, height } = view.shown;
  at("canvas").hidden = !source;
  if (source) draw(at("canvas"), source, { width, height }, found, view.model.colours, marked);
  at("canvas").setAttribute("aria-label", `${name} with ${found.length} boxes`);
  at("status").textContent = inWords(found.length);
}

function inWords(count) {
  const { timing, name, width, height } = view.shown;
  const ms = (value) => `${Math.round(value ?? 0)} ms`;
  return (
    `${count} found in ${name}, ${width} × ${height}: ${ms(timing.all)} in all, ` +
    `${ms(timing.network)} of it for the network, ${ms(timing.wait)} for decoding and waiting`
  );
}

function listFound() {
  at("found-title").textContent = view.shown ? `Found: ${visible().length}` : "Found";
  at("found").replaceChildren(
    ...visible().map((one) => {
      const row = document.createElement("button");
      row.type = "button";
      row.textContent = `${one.name} ${one.score.toFixed(2)}`;
      row.title = `x ${one.box_xyxy[0]} to ${one.box_xyxy[2]}, y ${one.box_xyxy[1]} to ${one.box_xyxy[3]}`;
      for (const event of ["focus", "mouseenter"]) row.addEventListener(event, () => render(one));
      for (const event of ["blur", "mouseleave"]) row.addEventListener(event, () => render());
      const item = document.createElement("li");
      item.append(row);
      return item;
    }),
  );
}

function update() {
  render();
  listFound();
}

function fail(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
  at("status").textContent = "";
  if (error.status === 401) at("token-form").hidden = false;
}

function listClasses() {
  at("classes").replaceChildren(
    ...view.model.names.map((name, label) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => {
        if (box.checked) view.hidden.delete(label);
        else view.hidden.add(label);
        update();
      });
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = view.model.colours[label];
      const count = document.createElement("span");
      count.className = "count";
      count.dataset.label = label;
      const line = document.createElement("label");
      line.append(box, swatch, name, count);
      const item = document.createElement("li");
      item.append(line);
      return item;
    }),
  );
}

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
    view.model = await api.model(view.token);
  } catch (error) {
    at("model").textContent = "not connected";
    fail(error);
    return;
  }
  at("error").hidden = true;
  at("token-form").hidden = true;
  at("model").textContent = `${view.model.detector}, ${view.model.names.length} classes`;
  at("threshold").min = view.model.lowest_score_threshold;
  listClasses();
  update();
}

async function detect(source, image, name, request) {
  if (image.size > view.model.largest_request_bytes) {
    throw new Error(`${name}: ${image.size.toLocaleString()} bytes; the server takes ` +
      `${view.model.largest_request_bytes.toLocaleString()}`);
  }
  const entry = await api.detect(image, view.token, view.model.lowest_score_threshold);
  if (request !== view.newest) return;
  view.shown = { ...entry, name, source };
  at("drop").hidden = true;
  at("error").hidden = true;
  for (const id of ["another", "save-json"]) at(id).disabled = false;
  at("save-image").disabled = !source;
  update();
}

async function open(file) {
  if (!view.model || !file) return;
  const request = begin();
  try {
    if (file.type.startsWith("video/")) {
      await openFilm(request, (film) => film.openFile(file));
      return;
    }
    at("status").textContent = `looking at ${file.name} …`;
    const source = await createImageBitmap(file).catch(() => null); // upright, as the server has it
    await detect(source, file, file.name || "image", request);
    if (!source && request === view.newest) fail(new Error(`${file.name}: this browser can't show it; the list has its detections`));
  } catch (error) {
    if (request === view.newest) fail(error);
  }
}

async function openCamera() {
  if (!view.model) return;
  const request = begin();
  try {
    await openFilm(request, (film) => film.openCamera());
  } catch (error) {
    fail(error.name === "NotAllowedError" ? new Error("the browser was not allowed to use the camera; allow it in the browser's settings") : error);
  }
}

async function openFilm(request, begin) {
  const film = new Film(at("video"), (still, image, name) => detect(still, image, name, request), showFilm);
  view.film = film;
  at("film").hidden = false;
  await begin(film);
}

function begin() {
  view.film?.close();
  view.film = null;
  at("film").hidden = true;
  at("error").hidden = true;
  return ++view.newest;
}

function showFilm() {
  const film = view.film;
  if (!film) return;
  at("play").textContent = film.playing ? "Stop" : "Play";
  at("seek").hidden = film.live;
  at("seek").max = film.duration;
  at("seek").value = film.time;
  at("clock").textContent = film.live ? "live" : `${Math.floor(film.time / 60)}:${(film.time % 60).toFixed(1).padStart(4, "0")}`;
}

function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---------------------------------------------------------------------------------------------- events

at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(at("token").value);
  connect();
});
at("threshold").addEventListener("input", update);
for (const [id, checked] of [["all", true], ["none", false]]) {
  at(id).addEventListener("click", () => {
    view.hidden = new Set(checked ? [] : view.model?.names.keys());
    for (const box of at("classes").querySelectorAll("input")) box.checked = checked;
    update();
  });
}
for (const id of ["choose", "another"]) at(id).addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  open(at("file").files[0]);
  at("file").value = ""; // so that the same file can be chosen again
});
at("camera").addEventListener("click", openCamera);
at("play").addEventListener("click", () => view.film?.toggle().catch(fail));
at("seek").addEventListener("change", async () => {
  const film = view.film;
  await film.seek(Number(at("seek").value));
  if (!film.playing) await film.frame().catch(fail);
});
at("save-image").addEventListener("click", () => {
  at("canvas").toBlob((png) => save(png, `${view.shown.name.replace(/\.\w+$/, "")}-detections.png`), "image/png");
});
at("save-json").addEventListener("click", () => {
  const { name, width, height } = view.shown;
  const text = JSON.stringify([{ source: name, width, height, detections: visible() }], null, 2);
  save(new Blob([text], { type: "application/json" }), `${name.replace(/\.\w+$/, "")}-detections.json`);
});
document.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("stage").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("stage").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("stage").classList.remove("over");
  open(event.dataTransfer.files[0]);
});
addEventListener("hashchange", connect);
connect();
