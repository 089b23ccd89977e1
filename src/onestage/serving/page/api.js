// Requests to the server.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, token, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused(0, "the server does not answer");
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, error ?? `the server answers ${answer.status}`);
}

export async function model(token) {
  return (await request("v1/model", token)).json();
}

// The entry of one image, with all detections above the lowest threshold, and where the time went (milliseconds).
export async function detect(image, token, lowestThreshold) {
  const began = performance.now();
  const answer = await request(`v1/detect?score_threshold=${lowestThreshold}`, token, {
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
