// Sends edits, and shows the parts of the page that come back. Everything else is the server's.
"use strict";

const byId = (id) => document.getElementById(id);
const editor = byId("editor");

function say(text, isError) {
  const message = byId("message");
  message.textContent = text;
  message.className = isError ? "error" : "";
}

async function send(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const isAnswer = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const answer = isAnswer ? await response.json() : { error: await response.text() };
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

// Requests go one after the other, so that what was done last is what counts.
let last = Promise.resolve();
function queue(act) {
  last = last.then(act).catch((error) => say(error.message, true));
  return last;
}

// ---- Showing what came back

// Where the person is writing, to be there again after a part was replaced.
function place() {
  const active = document.activeElement;
  if (!active || !active.id) return null;
  const isText = active.matches("textarea, input[type=text]");
  return { id: active.id, text: isText && { start: active.selectionStart, end: active.selectionEnd } };
}

function restore(place) {
  const active = place && byId(place.id);
  if (!active || active === document.activeElement) return;
  active.focus({ preventScroll: true });
  if (place.text && active.setSelectionRange) active.setSelectionRange(place.text.start, place.text.end);
}

function show(answer) {
  const before = place();
  // Browsers tell of a change when they take a part away in which somebody writes: that sends what is pending.
  const { id: written, text } = pending;
  const unfolded = [...document.querySelectorAll("details[open][id]")].map((details) => details.id);
  const isElsewhere = answer.page !== editor.dataset.page;
  for (const [id, html] of Object.entries(answer.parts)) {
    const part = byId(id);
    if (shown[id] !== html) part.innerHTML = html;
    shown[id] = html;
  }
  editor.dataset.page = answer.page;
  for (const id of unfolded) byId(id)?.setAttribute("open", "");
  const writing = written && byId(written);
  if (writing) writing.value = text;
  if (isElsewhere) {
    history.pushState(null, "", `/d/${editor.dataset.document}/${answer.page}`);
    window.scrollTo(0, 0);
    byId("page").focus({ preventScroll: true });
  } else {
    restore(before);
    if (before && !byId(before.id)) byId("page").focus({ preventScroll: true });
  }
  say(answer.message || "", false);
}
const shown = {};

// ---- Edits

// What was typed and is not sent yet.
const pending = { id: "", text: "", timer: 0 };
// How many requests there were, and the newest answer. Those that others will follow are not shown: they have texts of
// before what was typed since.
let requests = 0;
let answer = null;

function request(action, body) {
  const number = ++requests;
  return queue(async () => {
    try {
      answer = await send(`/d/${editor.dataset.document}/${action}`, { page: editor.dataset.page, ...body });
    } finally {
      if (answer && (number === requests || answer.page !== editor.dataset.page)) show(answer);
    }
  });
}

const edit = (edit, typing = false) => request("edit", { edit, typing });

function setTo(input) {
  const text = input.type === "checkbox" ? (input.checked ? "y" : "n") : input.value;
  return edit({ do: "set", path: input.dataset.set, text });
}

// What is typed is sent when the fingers rest, or go elsewhere.
function typed(input) {
  if (input.id !== pending.id) flush();
  clearTimeout(pending.timer);
  pending.id = input.id;
  pending.text = input.value;
  pending.timer = setTimeout(flush, 200);
}

function flush() {
  clearTimeout(pending.timer);
  const { id, text } = pending;
  pending.id = "";
  if (id) edit({ do: "set", path: id, text }, true);
}

const isTyped = (target) => target.matches("textarea[data-set], input[type=text][data-set]");

function listen() {
  document.addEventListener("input", (event) => {
    if (isTyped(event.target)) typed(event.target);
  });
  document.addEventListener("change", (event) => {
    const target = event.target;
    if (isTyped(target)) flush();
    else if (target.dataset.set) setTo(target);
    else if (target.dataset.toggle) edit({ ...JSON.parse(target.dataset.toggle), on: target.checked });
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-edit], [data-step], [data-save]");
    if (!button) return;
    flush();
    button.closest("details.menu")?.removeAttribute("open");
    if (button.dataset.edit) edit(JSON.parse(button.dataset.edit));
    else if (button.dataset.step) request("step", { step: button.dataset.step });
    else save();
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-save-form]")) return;
    event.preventDefault();
    save();
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    const step = key === "z" ? (event.shiftKey ? "redo" : "undo") : key === "y" ? "redo" : "";
    if (!step && key !== "s") return;
    event.preventDefault();
    flush();
    if (step) request("step", { step });
    else save();
  });
  window.addEventListener("popstate", () => location.reload());
  window.addEventListener("hashchange", goToHash);
}
function save() {
  flush();
  const directory = byId("directory")?.value;
  return request("save", directory ? { directory } : {});
}

// ---- Going to the field that a problem is about

function goToHash() {
  let path = decodeURIComponent(location.hash.slice(1));
  let found = byId(path);
  while (!found && path.includes("/")) {
    path = path.slice(0, path.lastIndexOf("/"));
    found = byId(path);
  }
  if (!found) return;
  for (let around = found; around; around = around.parentElement) {
    if (around.matches("details")) around.open = true;
  }
  const control = found.matches("input, select, textarea, button") ? found : found.querySelector("input, select, textarea, button");
  found.scrollIntoView({ block: "center" });
  control?.focus({ preventScroll: true });
}

// ---- The start page

const isFile = (input) => input.type === "file";

// A file's text, or the path that was written.
async function source(form, name) {
  const input = [...form.elements].find((element) => element.name === name && isFile(element));
  if (input?.files.length) return { text: await input.files[0].text() };
  const path = form.elements[`${name}_path`]?.value.trim();
  return path ? { path } : null;
}

async function wanted(form) {
  switch (form.dataset.open) {
    case "recent":
      return { open: "recent", recent: Number(form.elements.recent.value) };
    case "files": {
      const [scenario, board, launch] = await Promise.all(["scenario", "board", "launch"].map((name) => source(form, name)));
      if (!scenario || !board) throw new Error("Choose a scenario and the board file that belongs to it.");
      return { open: "files", scenario, board, launch };
    }
    default: {
      const sample = form.elements.sample.value;
      const board = (await source(form, "board")) || (sample && { sample });
      if (!board) throw new Error("Choose a board file, or a board to try.");
      return { open: "new", board, preset: form.elements.preset.value };
    }
  }
}

function start() {
  document.addEventListener("submit", (event) => {
    if (!event.target.dataset.open) return;
    event.preventDefault();
    queue(async () => {
      const answer = await send("/open", await wanted(event.target));
      location.assign(answer.location);
    });
  });
}

// ---- Every page

function colours() {
  const choice = byId("theme");
  if (!choice) return;
  choice.value = document.documentElement.dataset.theme;
  choice.addEventListener("change", () => {
    document.documentElement.dataset.theme = choice.value;
    document.cookie = `theme=${choice.value}; path=/; max-age=31536000; samesite=lax`;
  });
}

colours();
byId("print")?.addEventListener("click", () => window.print());
if (editor) {
  listen();
  goToHash();
} else {
  start();
}
