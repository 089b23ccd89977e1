// The strip of images: which there are, which is open, and the requests for them, a few at a time.

const AT_ONCE = 3; // images that are with the server
const THUMB_HEIGHT = 72; // pixels
export const MOST_IMAGES = 5000;

// Callbacks: `detect(entry, signal)` is awaited and fills the entry; `opened(entry)`; `changed(entry)` when one is done,
// and without one when the strip changes.
export class Images {
  entries = [];
  current = null;
  #run = newRun(); // null after a stop
  #wanted = new Set(); // entries whose thumbnails are in view and not drawn
  #drawing = false;

  constructor(strip, callbacks) {
    Object.assign(this, { strip, ...callbacks });
    const seen = (changes) => {
      for (const { target, isIntersecting } of changes) this.#wanted[isIntersecting ? "add" : "delete"](target.entry);
      this.#drawThumbs();
    };
    this.observer = new IntersectionObserver(seen, { root: strip, rootMargin: "0px 300px" });
    strip.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (item) this.open(item.entry);
    });
  }

  // Add files, and open the first of them; how many there was room for.
  add(files) {
    const added = files.slice(0, MOST_IMAGES - this.entries.length).map(({ file, path }) => this.#entry(file, path));
    this.entries.push(...added);
    this.strip.append(...added.map((entry) => entry.item));
    for (const entry of added) this.observer.observe(entry.item);
    if (added.length) this.open(added[0]);
    this.goOn();
    return added.length;
  }

  // An entry that is not in the strip, as a frame of a video.
  static loose(file, name) {
    return { file, path: name, name, state: "waiting", error: null, objects: [], past: [] };
  }

  #entry(file, path) {
    const entry = Images.loose(file, file.name || "image");
    const item = document.createElement("li");
    const button = document.createElement("button");
    const [thumb, name, count] = ["canvas", "span", "span"].map((tag) => document.createElement(tag));
    Object.assign(button, { type: "button", tabIndex: -1, title: path });
    Object.assign(thumb, { width: THUMB_HEIGHT, height: THUMB_HEIGHT });
    thumb.setAttribute("aria-hidden", "true");
    name.textContent = entry.name;
    name.className = "name";
    count.className = "count";
    button.append(thumb, name, count);
    item.append(button);
    item.entry = entry;
    Object.assign(entry, { path, item, button, thumb, count });
    this.say(entry);
    return entry;
  }

  // Write the state of an entry, or how many were found, under its thumbnail.
  say(entry, found = null) {
    if (!entry.count) return;
    const corrected = entry.past.length ? " ✎" : "";
    const text = { waiting: "…", asked: "…", failed: "error", done: `${found ?? ""}${corrected}` }[entry.state];
    if (entry.count.textContent === text) return;
    entry.count.textContent = text;
    entry.button.classList.toggle("failed", entry.state === "failed");
    const words = { waiting: "waiting", asked: "waiting", failed: entry.error?.message, done: `${found} found` };
    entry.button.setAttribute("aria-label", `${entry.name}: ${words[entry.state]}${corrected ? ", corrected" : ""}`);
  }

  open(entry) {
    if (this.current?.button) {
      this.current.button.tabIndex = -1;
      this.current.button.removeAttribute("aria-current");
    }
    this.current = entry;
    entry.button.tabIndex = 0; // the one of the strip that Tab reaches; arrows lead to the others
    entry.button.setAttribute("aria-current", "true");
    if (this.strip.contains(document.activeElement)) entry.button.focus();
    entry.item.scrollIntoView({ block: "nearest", inline: "center" });
    this.opened(entry);
  }

  // Open the next image, or for -1 the one before.
  step(by) {
    const next = this.entries[this.entries.indexOf(this.current) + by];
    if (next) this.open(next);
  }

  counts() {
    const counts = { waiting: 0, asked: 0, done: 0, failed: 0 };
    for (const entry of this.entries) counts[entry.state]++;
    return counts;
  }

  goOn() {
    this.#run ??= newRun();
    while (this.#run.workers < AT_ONCE) this.#work(this.#run);
    this.changed();
  }

  // Ask again for those that failed.
  tryAgain() {
    const failed = this.entries.filter((entry) => entry.state === "failed");
    for (const entry of failed) Object.assign(entry, { state: "waiting", error: null });
    this.goOn();
  }

  get stopped() {
    return !this.#run;
  }

  stop() {
    this.#run?.controller.abort();
    this.#run = null;
    this.changed();
  }

  clear() {
    this.#run?.controller.abort();
    this.#run = newRun();
    this.observer.disconnect();
    this.#wanted.clear();
    Object.assign(this, { entries: [], current: null });
    this.strip.replaceChildren();
    this.changed();
  }

  async #work(run) {
    run.workers++;
    const { signal } = run.controller;
    await null; // the one that is open is known by then
    for (let entry; !signal.aborted && (entry = this.#next()); ) {
      entry.state = "asked";
      try {
        await this.detect(entry, signal);
        entry.state = "done";
      } catch (error) {
        Object.assign(entry, error.name === "AbortError" ? { state: "waiting" } : { state: "failed", error });
      }
      if (this.entries.includes(entry)) this.changed(entry);
    }
    run.workers--;
  }

  // The image that is open is asked for first.
  #next() {
    return this.current?.state === "waiting" ? this.current : this.entries.find((entry) => entry.state === "waiting");
  }

  // Decode the thumbnails in view, one at a time; those that were scrolled away are passed over.
  async #drawThumbs() {
    if (this.#drawing) return;
    this.#drawing = true;
    while (this.#wanted.size) {
      const [entry] = this.#wanted;
      this.#wanted.delete(entry);
      this.observer.unobserve(entry.item);
      const how = { resizeHeight: THUMB_HEIGHT, resizeQuality: "medium" };
      const small = await createImageBitmap(entry.file, how).catch(() => null);
      if (!small) continue;
      entry.thumb.width = Math.min(small.width, 2 * THUMB_HEIGHT);
      entry.thumb.getContext("2d").drawImage(small, 0, 0, entry.thumb.width, THUMB_HEIGHT);
      small.close();
    }
    this.#drawing = false;
  }
}

function newRun() {
  return { controller: new AbortController(), workers: 0 };
}
