// Annotations as VOC has them: an XML file an image, several in a zip archive.

// The XML of one image. Boxes are 0-based and half-open here; VOC counts pixels from 1, the last one belongs to the box.
export function vocXml(name, { width, height }, objects) {
  const lines = objects.map(({ name, box_xyxy: [x0, y0, x1, y1] }) => {
    const sides = { xmin: x0 + 1, ymin: y0 + 1, xmax: x1, ymax: y1 };
    const box = Object.entries(sides).map(([tag, side]) => `<${tag}>${Number(side.toFixed(2))}</${tag}>`);
    return `  <object><name>${escaped(name)}</name><difficult>0</difficult><bndbox>${box.join("")}</bndbox></object>\n`;
  });
  const size = `<width>${width}</width><height>${height}</height><depth>3</depth>`;
  const head = `  <filename>${escaped(name)}</filename>\n  <size>${size}</size>\n`;
  return `<annotation>\n${head}${lines.join("")}</annotation>\n`;
}

// What has no shape is spelled out, as training writes it (`one_line` in texts.py): XML can't hold most of it at all.
const UNSEEN =
  /[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff]/g;

function escaped(text) {
  const signs = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
  return text.toWellFormed().replace(UNSEEN, spelled).replace(/[&<>]/g, (sign) => signs[sign]);
}

function spelled(sign) {
  const code = sign.charCodeAt(0).toString(16);
  const number = code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  return { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[sign] ?? number;
}

// A name for the XML of each image, in its own folder. Two images of one stem keep their endings: a.jpg.xml, a.png.xml.
export function xmlPaths(paths) {
  const cleaned = paths.map((path) =>
    path
      .replace(/[\u0000-\u001f\\:]/g, "_")
      .split("/")
      .filter((part) => !["", ".", ".."].includes(part))
      .join("/"),
  );
  const stems = cleaned.map((path) => path.replace(/\.\w+$/, ""));
  const taken = Map.groupBy(stems, (stem) => stem.toLowerCase());
  const used = new Map();
  return cleaned.map((path, row) => {
    const base = taken.get(stems[row].toLowerCase()).length > 1 ? path : stems[row];
    const before = used.get(base.toLowerCase()) ?? 0;
    used.set(base.toLowerCase(), before + 1);
    return `${base}${before ? `-${before + 1}` : ""}.xml`;
  });
}

// An archive of texts [{ path, text }], stored as they are (PKWARE's APPNOTE 4.3: local headers, then a directory).
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { path, text } of files) {
    const [name, content] = [path, text].map((words) => new TextEncoder().encode(words));
    // version 2.0, UTF-8 names, stored, 1980-01-01 0:00, CRC, size twice, length of the name, no extra field
    const sizes = [[crc32(content), 4], [content.length, 4], [content.length, 4], [name.length, 2], [0, 2]];
    const facts = [[20, 2], [0x0800, 2], [0, 2], [0, 2], [0x21, 2], ...sizes];
    parts.push(bytes([[0x04034b50, 4], ...facts]), name, content);
    directory.push(bytes([[0x02014b50, 4], [20, 2], ...facts, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]), name);
    offset += 30 + name.length + content.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = [[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2]];
  return new Blob([...parts, ...directory, bytes(end)], { type: "application/zip" });
}

// Whole numbers of 2 or 4 bytes, the lowest byte first.
function bytes(numbers) {
  const all = new DataView(new ArrayBuffer(numbers.reduce((sum, [, size]) => sum + size, 0)));
  let place = 0;
  for (const [value, size] of numbers) {
    all[size === 2 ? "setUint16" : "setUint32"](place, value, true);
    place += size;
  }
  return new Uint8Array(all.buffer);
}

function crc32(content) {
  let crc = -1;
  for (const byte of content) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
