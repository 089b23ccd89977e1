// What one model found and the other did not.

const SAME_IOU = 0.5; // two boxes of a class that overlap as much are one object

// The objects of each list that have no partner in the other. Pairs are made from the best overlap down.
export function onlyInOne(first, second) {
  const pairs = first
    .flatMap((a) => second.filter((b) => a.name === b.name).map((b) => ({ a, b, iou: iou(a.box_xyxy, b.box_xyxy) })))
    .filter((pair) => pair.iou >= SAME_IOU)
    .sort((one, other) => other.iou - one.iou);
  const paired = new Set();
  for (const { a, b } of pairs) if (!paired.has(a) && !paired.has(b)) paired.add(a).add(b);
  return [first, second].map((list) => new Set(list.filter((one) => !paired.has(one))));
}

function iou([ax0, ay0, ax1, ay1], [bx0, by0, bx1, by1]) {
  const width = Math.max(0, Math.min(ax1, bx1) - Math.max(ax0, bx0));
  const height = Math.max(0, Math.min(ay1, by1) - Math.max(ay0, by0));
  const shared = width * height;
  return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared);
}
