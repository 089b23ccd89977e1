// The files that a person drops or chooses, those of folders with their paths.

const OTHER_IMAGES = /\.(jpe?g|png|webp|bmp|tiff?|gif|avif)$/i; // where the browser knows no type

// The files of an <input>, as [{ file, path }].
export function chosenFiles(input) {
  return images([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
}

// The files of a drop, and of the folders in it. What a DataTransfer has is gone after the event, so it is taken at once.
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) {
    return images([...transfer.files].map((file) => ({ file, path: file.name })));
  }
  const found = [];
  while (entries.length) {
    const entry = entries.shift();
    if (entry.isDirectory) entries.unshift(...(await listed(entry)));
    else found.push({ file: await new Promise((...outcome) => entry.file(...outcome)), path: entry.fullPath.slice(1) });
  }
  return images(found);
}

async function listed(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((...outcome) => reader.readEntries(...outcome)); // a hundred at a time
    if (!some.length) return all.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    all.push(...some);
  }
}

// One file is taken as it is; of several those that are images.
function images(files) {
  if (files.length === 1) return { files, others: 0 };
  const chosen = files.filter(({ file }) => file.type.startsWith("image/") || OTHER_IMAGES.test(file.name));
  return { files: chosen, others: files.length - chosen.length };
}
