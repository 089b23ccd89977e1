// What the page knows: its models, its images, and which of the objects are to be seen.

import { onlyInOne } from "./differences.js";

export const at = (id) => document.getElementById(id);
export const FIRST = 0, SECOND = 1; // models
export const SIDES = [0, 1, 2, 3]; // of a box: left, top, right, bottom
export const view = {
  models: null, // facts from the server, of one model or two
  classes: null,
  token: sessionStorage.getItem("token") ?? "",
  entry: null, // the image that is shown: { file, name, state, width, height, timing, objects, second, past, ... }
  source: null, // its pixels; null where the browser can't show it
  selected: null, // an object
  preview: null, // { old, now } while a box is dragged
  images: null, // the strip
  film: null,
  newest: 0, // number of what was opened last: an answer to something older is not shown
  error: null, // of what is not an image of the strip
  unsaved: false, // corrections
  note: "", // about files that were passed over
};

export const comparing = () => view.models?.length > 1;
export const shownModel = () => (comparing() ? document.querySelector("[name=shown]:checked").value : "first");

export function titles() {
  const [first, second] = view.models;
  return first.title === second?.title ? ["the first", "the second"] : view.models.map((model) => model.title);
}

// The objects of a model in an image that are to be seen.
export function seen(entry, which) {
  return (which === FIRST ? entry.objects : (entry.second ?? [])).filter((one) => view.classes.isShown(one, which));
}

// What both models show of the open image, and what is only in one of them.
export function scene() {
  let lists = [FIRST, SECOND].map((which) => (view.entry ? seen(view.entry, which) : []));
  const only = comparing() ? onlyInOne(...lists) : [new Set(), new Set()];
  const counts = { both: lists[0].length - only[0].size, first: only[0].size, second: only[1].size };
  if (comparing() && at("only-differences").checked) {
    lists = lists.map((list, which) => list.filter((one) => only[which].has(one)));
  }
  return { lists, only, counts };
}

// Images can be corrected, frames of videos can't: there is no file that an annotation would be for.
export const editable = () => Boolean(view.entry?.item) && view.entry.state === "done";
export const isOurs = () => Boolean(view.selected && view.entry?.objects.includes(view.selected));
