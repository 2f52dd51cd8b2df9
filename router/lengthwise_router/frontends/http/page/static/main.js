// The parts of the page, joined.

import { apiKey, isKeyRefused, readJson, useApiKey } from "./api.js";
import { Cluster } from "./cluster.js";
import { Conversation } from "./conversation.js";
import { element, find } from "./dom.js";
import { drawRequest, explained } from "./request.js";

const prompt = find("prompt");
const conversation = new Conversation(find("log"));
const cluster = new Cluster(find("cluster"), find("router"));
let models = [];
let lastId = "";
let running = null; // of what is being answered: its AbortController

async function loadModels() {
  const chosen = find("model").value;
  try {
    models = (await readJson("v1/models")).data;
  } catch (error) {
    models = [];
    complain(error);
  }
  find("model").replaceChildren(
    ...models.map(({ id }) => element("option", { value: id }, id)));
  if (models.some(({ id }) => id === chosen)) find("model").value = chosen;
  find("model").disabled = models.length < 2;
  tellKind();
}

const chosenModel = () => models.find(({ id }) => id === find("model").value);

function tellKind() {
  const isChat = chosenModel()?.has_chat_template ?? true;
  prompt.placeholder = isChat ? "Write a message"
    : "Write how a text begins: this model has no chat template and goes on with it";
}

function complain(error) {
  say(error.message);
  if (isKeyRefused(error)) find("settings").open = true; // it has the key
}

function say(message) {
  find("error").textContent = message;
  find("error").hidden = !message;
}

/** Those that are set. */
function options() {
  const given = [...find("options").elements].filter(({ name, value }) => name && value !== "");
  return Object.fromEntries(given.map(({ name, valueAsNumber }) => [name, valueAsNumber]));
}

async function send() {
  const text = prompt.value;
  if (running || !text.trim()) return;
  if (!find("options").checkValidity()) {
    find("settings").open = true;
    find("options").reportValidity();
    return;
  }
  say("");
  running = new AbortController();
  show();
  if (!models.length) await loadModels();
  const model = chosenModel();
  try {
    if (model) await answer(text, model, running.signal);
  } finally {
    running = null;
    show();
  }
}

async function answer(text, model, signal) {
  let id = "";
  const before = conversation.messages;
  prompt.value = "";
  try {
    await conversation.send(text, {
      model, options: options(), signal, started: (given) => { id = given; },
    });
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
    // Nothing came of it: to be sent again.
    if (conversation.messages === before && !prompt.value) prompt.value = text;
  }
  if (id) explain(id, model.id);
}

async function explain(id, model) {
  lastId = id;
  let parts;
  try {
    parts = drawRequest(await explained(id, model));
  } catch (error) {
    parts = [element("p", { class: "quiet" }, error.message)];
  }
  if (id === lastId) find("request").replaceChildren(...parts);
}

function show() {
  find("send").hidden = running !== null;
  find("stop").hidden = running === null;
}

const stop = () => running?.abort();

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
find("options").addEventListener("submit", (event) => event.preventDefault());
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
find("stop").addEventListener("click", () => {
  stop();
  prompt.focus();
});
find("new").addEventListener("click", () => {
  stop();
  conversation.clear();
  say("");
  prompt.focus();
});
find("model").addEventListener("change", tellKind);
find("key").value = apiKey();
find("key").addEventListener("change", ({ target }) => {
  useApiKey(target.value);
  say("");
  loadModels();
  cluster.look();
});

loadModels();
cluster.look();
