"use strict";
// Decisions of a person on this page, and the lines they make for labels/review.csv.

const HEADER = "key,sha256,action,label,reviewer,date,note";
const STORE = "imagemill label review " + DATA_DIGEST;
const REVIEWER = "imagemill reviewer";
const ACTIONS = { r: "relabel", k: "keep", d: "drop", u: null };

const element = (id) => document.getElementById(id);
const cards = [...document.querySelectorAll(".card")];
const classes = new Set([...element("classes").options].map((option) => option.value));

// A browser may refuse to keep anything for a file; the page then works until it is closed.
function stored(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}
function store(name, text) {
  try { localStorage.setItem(name, text); } catch { /* see above */ }
}

function today() {
  const now = new Date();
  const two = (number) => String(number).padStart(2, "0");
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
}

function nameOf(card) { return `${card.dataset.sha256} ${card.dataset.key}`; }

function decide(card, action) {
  if (action) {
    card.dataset.action = action;
    card.dataset.date = today();
  } else {
    delete card.dataset.action;
    delete card.dataset.date;
  }
  for (const radio of card.querySelectorAll("input[type=radio]")) {
    radio.checked = radio.value === action;
  }
  update();
}

function remember() {
  const decisions = {};
  for (const card of cards.filter((one) => one.dataset.action)) {
    const { action, date } = card.dataset;
    const label = card.querySelector(".label").value;
    decisions[nameOf(card)] = { action, date, label, note: card.querySelector(".note").value };
  }
  store(STORE, JSON.stringify(decisions));
  store(REVIEWER, element("reviewer").value);
}

function recall() {
  element("reviewer").value = stored(REVIEWER) ?? "";
  const decisions = JSON.parse(stored(STORE) ?? "{}");
  for (const card of cards) {
    const decision = decisions[nameOf(card)];
    if (!decision) continue;
    card.dataset.action = decision.action;
    card.dataset.date = decision.date;
    card.querySelector(".label").value = decision.label;
    card.querySelector(".note").value = decision.note;
    card.querySelector(`input[value="${decision.action}"]`).checked = true;
  }
}

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function lineOf(card) {
  const { key, sha256, action, date } = card.dataset;
  const label = action === "relabel" ? card.querySelector(".label").value : "";
  const note = card.querySelector(".note").value;
  const reviewer = element("reviewer").value.trim();
  return [key, sha256, action, label, reviewer, date, note].map(quoted).join(",");
}

// A relabel counts once it names a class there is; a new class is written by hand.
function isComplete(card) {
  const input = card.querySelector(".label");
  const isWrong = card.dataset.action === "relabel" && !classes.has(input.value);
  input.setCustomValidity(isWrong ? "no class has this name" : "");
  return Boolean(card.dataset.action) && !isWrong;
}

function isShown(card) {
  const pair = element("pair").selectedOptions[0].dataset;
  const split = element("split").value;
  const state = element("state").value;
  return (pair.label === undefined
      || (pair.label === card.dataset.label && pair.suggested === card.dataset.suggested))
    && (!split || split === card.dataset.split)
    && (!state || (state === "decided") === Boolean(card.dataset.action));
}

function filter() {
  for (const card of cards) card.hidden = !isShown(card);
  update();
}

function update() {
  const complete = cards.filter(isComplete);
  const lines = complete.map(lineOf);
  if (element("header").checked) lines.unshift(HEADER);
  element("lines").value = lines.length ? lines.join("\n") + "\n" : "";
  const shown = cards.filter((card) => !card.hidden).length;
  element("count").value = `${complete.length} of ${cards.length} decided, ${shown} shown`;
  remember();
}

function move(card, steps) {
  const shown = cards.filter((one) => !one.hidden);
  const next = shown[shown.indexOf(card) + steps];
  if (next) next.focus();
}

for (const card of cards) {
  card.addEventListener("change", (event) => {
    if (event.target.type === "radio") decide(card, event.target.value);
  });
  card.addEventListener("input", update);
  card.querySelector(".undo").addEventListener("click", () => decide(card, null));
  card.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input:not([type=radio])");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ACTIONS) {
      decide(card, ACTIONS[event.key]);
      if (ACTIONS[event.key]) move(card, 1);
    } else if (event.target === card && /^Arrow(Right|Down)$/.test(event.key)) {
      move(card, 1);
    } else if (event.target === card && /^Arrow(Left|Up)$/.test(event.key)) {
      move(card, -1);
    } else {
      return;
    }
    event.preventDefault();
  });
}

for (const id of ["pair", "split", "state"]) element(id).addEventListener("change", filter);
element("reviewer").addEventListener("input", update);
element("header").addEventListener("change", update);
element("tools").addEventListener("submit", (event) => event.preventDefault());

element("copy").addEventListener("click", async () => {
  const lines = element("lines");
  try {
    await navigator.clipboard.writeText(lines.value);
  } catch {
    lines.select();
    document.execCommand("copy");
  }
  element("told").textContent = "copied";
});

element("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([element("lines").value], { type: "text/csv" }));
  link.download = "review.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});

element("forget").addEventListener("click", () => {
  if (!confirm("Forget all decisions on this page?")) return;
  for (const card of cards) decide(card, null);
});

recall();
filter();
