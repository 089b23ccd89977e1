// What the page asks the server.

export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path, token, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused(0, "the server does not answer");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, said.error ?? `the server answers ${answer.status}`);
}

export async function model(token) {
  return (await ask("v1/model", token)).json();
}

// One image's entry, with everything of the lowest threshold and more, and where the time went (milliseconds).
export async function detect(image, token, lowestThreshold) {
  const began = performance.now();
  const answer = await ask(`v1/detect?score_threshold=${lowestThreshold}`, token, {
    method: "POST",
    headers: { "Content-Type": image.type || "application/octet-stream" },
    body: image,
  });
  const [entry] = await answer.json();
  const timing = Object.fromEntries(
    [...(answer.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map((m) => [m[1], Number(m[2])]),
  );
  return { ...entry, timing: { ...timing, all: performance.now() - began } };
}
