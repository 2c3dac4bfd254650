// What the server says is put in as text, never as HTML. Rules of inputs are not repeated here:
// the server names every broken one, and its words are shown beside the field.

const SILENCE = 45_000; // ms without a sign of life; the server gives one every 15 s
const byId = (id) => document.getElementById(id);
const form = byId("form");
const cards = new Map(); // by the video's id: {video, parts, begun, shown}
const still = matchMedia("(prefers-reduced-motion: reduce)");
const samples = new Map(); // where a picture is here, by the URL at which the service fetches it

// ------------------------------------------------------------------------------------ the form

const chosen = (name) => form.elements[name].value;

function picture() {
  const value = chosen("picture");
  return value === "own" ? form.elements.image_url.value.trim() : value;
}

function arrange() {
  const withPicture = chosen("picture") !== "";
  for (const radio of form.elements.quality) {
    radio.disabled = !withPicture && radio.value !== "master";
  }
  if (!withPicture) form.elements.quality.value = "master";
  const shown = {
    own: chosen("picture") === "own",
    pro: chosen("quality") === "pro",
    text: !withPicture,
  };
  for (const part of form.querySelectorAll("[data-for]")) part.hidden = !shown[part.dataset.for];
}

function description() {
  const withPicture = chosen("picture") !== "";
  const quality = chosen("quality");
  const input = {
    model: "kling-2-1",
    mode: `${quality}-${withPicture ? "image" : "text"}-to-video`,
    prompt: form.elements.prompt.value.trim(),
    duration: Number(chosen("duration")),
  };
  if (withPicture) input.image_url = picture();
  else input.aspect_ratio = chosen("aspect_ratio");
  const end = form.elements.end_image_url.value.trim();
  if (quality === "pro" && end) input.end_image_url = end;
  return input;
}

/** Fill the form with the input of a video; a failure goes beside the field that it is about. */
function fill({ input, error }) {
  form.elements.prompt.value = input.prompt;
  const url = input.image_url ?? "";
  const known = [...form.elements.picture].some((radio) => radio.value === url);
  form.elements.picture.value = known ? url : "own";
  form.elements.image_url.value = known ? "" : url;
  form.elements.end_image_url.value = input.end_image_url ?? "";
  form.elements.quality.value = input.mode.split("-")[0];
  form.elements.duration.value = input.duration;
  form.elements.aspect_ratio.value = input.aspect_ratio ?? "16:9";
  arrange();
  const field = { prompt: "prompt", image: "image_url" }[error?.reason];
  complain(field ? [{ field, rule: FAILURES[error.reason].join(". ") }] : []);
  if (!field) form.elements.prompt.focus();
}

/** Show each problem beside its field, what fits no field above the button, and go to the first. */
function complain(problems) {
  const wrong = [];
  for (const place of [...form.querySelectorAll("[data-field]"), byId("form-error")]) {
    const own = problems.filter((problem) => (place.dataset.field ?? null) === homeOf(problem));
    place.textContent = own
      .map(({ field, rule }) => (place.dataset.field || !field ? rule : `${field}: ${rule}`))
      .join("; ");
    for (const control of form.querySelectorAll(`[aria-describedby~="${place.id}"]`)) {
      if (own.length) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
      const usable = control.type === "radio" ? control.checked : control.checkVisibility();
      if (own.length && usable) wrong.push(control);
    }
  }
  // Of a choice and the text that belongs to it, such as a picture's address, the text is wrong.
  (wrong.find(({ type }) => type !== "radio") ?? wrong[0])?.focus();
}

function homeOf({ field }) {
  return form.querySelector(`[data-field="${CSS.escape(field ?? "")}"]`) ? field : null;
}

/** Read FastAPI's list of broken rules, or a problem as in RFC 9457. */
function problemsOf({ detail, title, problems }) {
  if (!Array.isArray(detail)) return problems ?? [{ rule: detail ?? title }];
  return detail.map(({ loc, msg }) => ({ field: String(loc.at(-1)), rule: msg }));
}

let sending = false;
let unanswered = {}; // the last request, if no answer came: the same again is not a second video

async function send(event) {
  event.preventDefault();
  if (sending) return;
  sending = true;
  byId("send").setAttribute("aria-disabled", "true");
  const body = JSON.stringify(description());
  if (unanswered.body !== body) unanswered = { body, key: randomKey() };
  try {
    const response = await fetch("videos", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": unanswered.key },
      body,
    });
    const answer = await response.json();
    if (response.status < 500) unanswered = {};
    if (response.ok) {
      complain([]);
      show(answer);
      const behavior = still.matches ? "auto" : "smooth";
      cards.get(answer.id).parts.element.scrollIntoView({ block: "nearest", behavior });
    } else {
      complain(problemsOf(answer));
    }
  } catch {
    complain([{ rule: "The backend gave no answer. Try again: if it has taken the video, this finds it." }]);
  } finally {
    sending = false;
    byId("send").removeAttribute("aria-disabled");
  }
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

form.addEventListener("submit", send);
form.addEventListener("change", arrange);
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  }
});

// ----------------------------------------------------------------------------------- the videos

const MODES = {
  "master-text-to-video": "Master, from text",
  "master-image-to-video": "Master, from a picture",
  "pro-image-to-video": "Pro, from a picture",
  "standard-image-to-video": "Standard, from a picture",
};

const PENDING = new Set(["waiting", "sending"]);
const SAID = { waiting: "Asked for", running: "Started", done: "Ready", failed: "Failed", unsure: "Unsure" };

function make(video) {
  const element = byId("card").content.firstElementChild.cloneNode(true);
  const parts = { element };
  for (const name of ["stage", "under", "progress", "state", "failure", "text", "chips", "facts", "open", "again"]) {
    parts[name] = element.querySelector(`.${name}`);
  }
  parts.bar = element.querySelector("progress");
  const { input } = video;
  const words = wordsOf(video);
  parts.text.textContent = words;
  parts.bar.setAttribute("aria-label", `Progress: ${short(words)}`);
  const { mode, duration, aspect_ratio: shape } = input;
  const facts = [MODES[mode] ?? mode, duration && `${duration} s`, shape];
  for (const fact of facts.filter(Boolean)) {
    parts.chips.append(Object.assign(document.createElement("li"), { textContent: fact }));
  }
  if (samples.has(input.image_url)) {
    parts.under.src = samples.get(input.image_url); // others may be anywhere, and are not fetched
    parts.under.hidden = false;
  }
  parts.again.addEventListener("click", () => fill(cards.get(video.id).video));
  parts.again.setAttribute("aria-label", `Use again: ${short(words)}`);
  parts.again.hidden = !(input.mode in MODES); // the form has no other
  byId("videos").prepend(element);
  byId("empty").hidden = true;
  return { parts };
}

function show(video, { quietly = false } = {}) {
  const card = cards.get(video.id) ?? make(video);
  const before = card.video?.state;
  // The answer to a request may come after the events of what was done since.
  if (video.version <= card.video?.version) return;
  cards.set(video.id, card);
  card.video = video;
  card.begun = performance.now() - video.seconds * 1000;
  const { parts } = card;
  const running = video.state === "running" || PENDING.has(video.state);
  parts.stage.classList.toggle("running", running);
  parts.progress.hidden = !running;
  parts.facts.textContent = running ? (video.ref ?? "") : `took ${video.seconds.toFixed(1)} s`;
  if (video.state === "done") play(card);
  parts.failure.hidden = true; // an unsure one may turn out to run
  if (video.state === "failed") fail(card, video.error);
  if (video.state === "unsure") fail(card, { ...video.error, reason: "unsure" });
  if (video.state !== before && !quietly) {
    const said = SAID[video.state];
    if (said) byId("news").textContent = `${said}: ${short(wordsOf(video))}`;
  }
  tick(card);
}

function play({ video, parts }) {
  const url = `videos/${video.id}/file`;
  const words = short(wordsOf(video));
  parts.open.href = url;
  parts.open.hidden = false;
  parts.open.setAttribute("aria-label", `Open file: ${words}`);
  const player = Object.assign(document.createElement("video"), {
    muted: true, loop: true, playsInline: true, controls: true, autoplay: !still.matches,
  });
  player.setAttribute("aria-label", words);
  player.addEventListener("error", () => {
    player.remove();
    fail({ parts }, { title: "The file cannot be played", detail: "It may have been deleted." });
  });
  player.src = url;
  parts.stage.append(player);
}

// What failed, and what to do; for other errors the server's words are enough.
const FAILURES = {
  content: ["The content was refused", "The same would be refused again: change the prompt or the picture."],
  prompt: ["The prompt cannot be used", "Change it."],
  image: ["The picture cannot be used", "It must be JPEG, PNG or WebP, at most 10 MB, where the service can fetch it."],
  timeout: ["The service took too long", "Another try may succeed, and costs again."],
  unavailable: ["The model is not available", "Try again later."],
  generation: ["The generation failed", "Another try may succeed, and costs again."],
  unsure: ["It may have been paid", "Look at the account's list of tasks before you ask for it again."],
  balance: ["The account's balance is too low", "Top it up."],
};

function fail({ parts }, { title, detail, reason, ref, may_have_charged: charged }) {
  const [heading, advice] = FAILURES[reason] ?? [title, ""];
  const [strong, words] = parts.failure.children;
  strong.textContent = heading;
  const sentences = [advice, charged && ref ? "It may have been charged." : "", detail];
  words.textContent = sentences.filter(Boolean).map((text) => text.replace(/[^.!?…]$/, "$&.")).join(" ");
  parts.failure.hidden = false;
  parts.under.hidden = true;
}

/** The service reports no percentage: the bar follows the usual time, and never reaches the end. */
function tick({ video, begun, parts }) {
  if (parts.progress.hidden) return;
  const seconds = (performance.now() - begun) / 1000;
  const late = seconds / video.usual - 1;
  parts.bar.value = late < 0 ? 0.9 * (1 + late) : 0.99 - 0.09 * Math.exp(-2 * late);
  const time = `${Math.floor(seconds)} s${late < 0 ? ` of about ${Math.round(video.usual)} s` : ", longer than usual"}`;
  parts.state.textContent = `${video.state === "waiting" ? "Waiting for its turn" : "Running"}: ${time}`;
}

// Clients of the API may send any input: some need no prompt.
const wordsOf = ({ input }) => input.prompt ?? input.mode;
const short = (text) => (text.length > 60 ? `${text.slice(0, 60)}…` : text);

setInterval(() => cards.forEach(tick), 250);

// -------------------------------------------------------------------------------- the connection

/** Show all videos of the server, which it sends when a connection begins. */
function showAll(videos) {
  const known = new Set(videos.map(({ id }) => id));
  for (const [id, { parts }] of cards) {
    if (known.has(id)) continue; // the others are older than those that the server lists
    parts.element.remove();
    cards.delete(id);
  }
  byId("empty").hidden = known.size > 0;
  for (const video of videos) show(video, { quietly: true });
}

let source, silence;

function disconnect() {
  source?.close();
  clearTimeout(silence);
}

function connect() {
  disconnect();
  source = new EventSource("videos/events");
  source.addEventListener("videos", ({ data }) => showAll(JSON.parse(data)));
  source.addEventListener("video", ({ data }) => show(JSON.parse(data)));
  for (const name of ["videos", "video", "alive"]) source.addEventListener(name, keepAlive);
  source.addEventListener("error", () => {
    byId("connection").textContent = "The connection to the backend is lost. Trying again…";
    // After a refusal, such as a proxy's 502, the browser does not try again of its own accord.
    if (source.readyState === EventSource.CLOSED) wait(2_000);
  });
  wait(SILENCE);
}

// A browser has six connections to one host: tabs that are not seen leave theirs to others.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));

function keepAlive() {
  byId("connection").textContent = "";
  wait(SILENCE);
}

function wait(ms) {
  clearTimeout(silence);
  silence = setTimeout(connect, ms);
}

// ------------------------------------------------------------------------------------- the start

async function begin() {
  const about = await (await fetch("about")).json();
  byId("about").textContent = about.text;
  for (const [name, url] of Object.entries(about.samples)) {
    const title = name.replace(/\..*/, "").replaceAll("-", " ");
    samples.set(url, `samples/${name}`);
    const label = byId("own").cloneNode(true);
    label.removeAttribute("id");
    label.title = title;
    label.querySelector("input").value = url;
    label.querySelector("input").setAttribute("aria-label", title); // no text is seen
    const image = Object.assign(new Image(), { src: samples.get(url), alt: "" });
    label.querySelector("span").replaceWith(image);
    byId("own").before(label);
    byId("samples").append(Object.assign(document.createElement("option"), { value: url, label: title }));
  }
}

arrange();
begin().catch(() => {}).finally(connect); // without it there are no samples; the rest works
