// Requests to the server.

const TRIES = 30; // of a request for which a busy server has no room

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, token, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  for (let tries = 1; ; tries++) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "the server does not answer");
    }
    if (answer.ok) return answer;
    if (answer.status === 503 && tries < TRIES) {
      const seconds = Number(answer.headers.get("Retry-After") ?? 1);
      await new Promise((done) => setTimeout(done, 1000 * seconds * (0.5 + Math.random())));
      options.signal?.throwIfAborted();
      continue;
    }
    const { error } = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, error ?? `the server answers ${answer.status}`);
  }
}

// Facts of the first or the second model.
export async function model(which, token) {
  return (await request(`v1/model?model=${which}`, token)).json();
}

// The entry of one image, with all detections above the threshold, and where the time went (milliseconds).
export async function detect(image, { model, threshold, token, signal }) {
  const began = performance.now();
  const answer = await request(`v1/detect?model=${model}&score_threshold=${threshold}`, token, {
    method: "POST",
    headers: { "Content-Type": image.type || "application/octet-stream" },
    body: image,
    signal,
  });
  const [entry] = await answer.json();
  const timing = Object.fromEntries(
    [...(answer.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map((m) => [m[1], Number(m[2])]),
  );
  return { ...entry, timing: { ...timing, all: performance.now() - began } };
}
