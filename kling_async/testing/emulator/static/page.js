// The state is read twice a second; only what differs is written into the page, so nothing flickers.
const INTERVAL = 500;

const byId = (id) => document.getElementById(id);
const catalogue = JSON.parse(byId("catalogue").textContent);
const number = new Intl.NumberFormat("en-US");
const money = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function announce(text) {
  byId("news").textContent = "";
  setTimeout(() => setText(byId("news"), text), 50); // a change, also if the text is the same
}

function plural(count, noun) {
  return `${number.format(count)} ${noun}${count === 1 ? "" : "s"}`;
}

// Tasks --------------------------------------------------------------------------------------

const cards = new Map(); // by task

function newCard() {
  const element = byId("task").content.firstElementChild.cloneNode(true);
  const parts = {};
  for (const name of ["state", "age", "prompt", "failure", "facts"]) parts[name] = element.querySelector(`.${name}`);
  return { element, ...parts, progress: element.querySelector("progress"), link: element.querySelector("a") };
}

function showTask(card, task) {
  setText(card.state, task.state);
  card.state.dataset.state = task.state;
  setText(card.age, `${task.seconds.toFixed(1)} s`);
  setText(card.prompt, task.prompt || "(no prompt)");
  setText(card.failure, task.failure ?? "");
  const fault = task.faults.length ? ` · fault: ${task.faults.join(", ")}` : "";
  setText(card.facts, `${task.mode} · ${task.id}${fault}`);
  const ended = task.state === "success" || task.state === "failed";
  card.progress.hidden = ended;
  if (task.progress === null) card.progress.removeAttribute("value");
  else card.progress.value = task.progress;
  card.progress.setAttribute("aria-label", `Progress of ${task.id}`);
  card.link.hidden = task.file === null;
  if (task.file !== null) {
    card.link.setAttribute("href", task.file);
    card.link.setAttribute("aria-label", `Open video of ${task.id}`);
  }
}

function showTasks(tasks) {
  const list = byId("tasks");
  const shown = new Set(tasks.map((task) => task.id));
  for (const [id, card] of cards) {
    if (!shown.has(id)) {
      card.element.remove();
      cards.delete(id);
    }
  }
  let previous = null;
  for (const task of tasks) {
    if (!cards.has(task.id)) cards.set(task.id, newCard());
    const card = cards.get(task.id);
    showTask(card, task);
    // Elements in their place are not moved: focus and selection stay.
    const place = previous ? previous.nextElementSibling : list.firstElementChild;
    if (place !== card.element) list.insertBefore(card.element, place);
    previous = card.element;
  }
}

// The whole state ------------------------------------------------------------------------------

function show(state) {
  setText(byId("running"), `${number.format(state.running)} of ${number.format(state.concurrent_tasks)}`);
  setText(byId("requests"), `${number.format(state.requests)} of ${number.format(state.requests_per_minute)}`);
  setText(byId("charged"), `${plural(state.submitted, "task")}, ${money.format(state.spent)} USD`);
  setText(byId("balance"), `${money.format(state.balance)} USD`);
  setText(byId("exports"), state.exports);
  byId("own-key").hidden = !state.own_key;
  byId("empty").hidden = state.tasks.length > 0;
  showTasks(state.tasks);
  const more = state.submitted - state.tasks.length;
  setText(byId("more"), more > 0 ? `and ${plural(more, "other")}` : "");
  const list = byId("active");
  if (list.dataset.rules !== state.faults.join("\n")) {
    list.dataset.rules = state.faults.join("\n");
    list.replaceChildren(...state.faults.map((rule) => {
      const item = document.createElement("li");
      item.className = "rule";
      item.textContent = rule;
      return item;
    }));
  }
  byId("no-faults").hidden = state.faults.length > 0;
  byId("clear").hidden = state.faults.length === 0;
}

async function update() {
  try {
    const answer = await fetch("page/state", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
    setText(byId("connection"), "");
  } catch {
    setText(byId("connection"), "The emulator does not answer. This page shows its last state.");
  }
}

async function updateForever() {
  for (;;) {
    if (!document.hidden) await update();
    await new Promise((resolve) => setTimeout(resolve, INTERVAL));
  }
}

// Faults ---------------------------------------------------------------------------------------

const kind = byId("kind"), which = byId("which"), fault = byId("fault"), value = byId("value");

function options(select, names) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
}

function chosen() {
  const what = value.value && !byId("value-field").hidden ? `${fault.value}:${value.value}` : fault.value;
  return `${kind.value}:${which.value}=${what}`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function showCommand() {
  setText(byId("command"), `curl -d ${quoted(chosen())} ${new URL("faults", location.href).href}`);
}

function chooseKind() {
  options(fault, Object.keys(catalogue[kind.value]));
  chooseFault();
}

function chooseFault() {
  const { text, value: example } = catalogue[kind.value][fault.value];
  setText(byId("description"), text);
  byId("value-field").hidden = example === null;
  value.value = example ?? "";
  showCommand();
}

async function change(method, body) {
  setText(byId("error"), "");
  try {
    const answer = await fetch("faults", { method, body });
    if (answer.ok) return true;
    setText(byId("error"), (await answer.json()).data.error);
  } catch {
    setText(byId("error"), "The emulator does not answer.");
  }
  return false;
}

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await change("POST", chosen())) announce(`${chosen()} is switched on`);
  await update();
});
byId("clear").addEventListener("click", async () => {
  if (await change("DELETE")) announce("All faults are switched off");
  await update();
  kind.focus(); // the button is gone
});
kind.addEventListener("change", chooseKind);
fault.addEventListener("change", chooseFault);
for (const input of [which, value]) input.addEventListener("input", showCommand);

// Copying --------------------------------------------------------------------------------------

async function copy(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  getSelection().selectAllChildren(element); // plain http to another machine has no clipboard
  if (!document.execCommand("copy")) throw new Error("not copied");
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.firstChild;
  button.addEventListener("click", async () => {
    try {
      await copy(byId(button.dataset.copy));
      label.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId(button.dataset.copy));
      label.textContent = "Selected";
    }
    announce(label.textContent);
    setTimeout(() => { label.textContent = "Copy"; }, 2000);
  });
}

options(kind, Object.keys(catalogue));
chooseKind();
updateForever();
