// What was said so far, and its next answer, which comes piece by piece.

import { call, eventsOf } from "./api.js";
import { count, element } from "./dom.js";

/** Where the model has a chat template these are messages; else one text that goes on. */
export class Conversation {
  constructor(log) {
    this.log = log;
    this.clear();
  }

  clear() {
    this.messages = [];
    this.log.replaceChildren();
  }

  /**
   * Sends a text and shows what comes. `started` is told the request's id.
   * Errors: as `call`; what was said of the answer by then is kept, and nothing where that is nothing.
   */
  async send(text, { model, options, signal, started }) {
    const asked = this.#show("user", text);
    const answer = this.#show("assistant", "");
    this.log.setAttribute("aria-busy", "true");
    const messages = [...this.messages, { role: "user", content: text }];
    try {
      await this.#stream(answer, bodyOf(messages, model, options), { model, signal, started });
    } finally {
      this.log.removeAttribute("aria-busy");
      answer.box.classList.remove("coming");
      const isHere = answer.box.isConnected; // else a new conversation has begun
      if (isHere && (answer.text.data || answer.thought.data || answer.isWhole)) {
        this.messages = [...messages, { role: "assistant", content: answer.text.data }];
      } else if (isHere) {
        asked.box.remove();
        answer.box.remove();
      }
    }
  }

  async #stream(answer, body, { model, signal, started }) {
    const path = model.has_chat_template ? "v1/chat/completions" : "v1/completions";
    answer.box.classList.add("coming");
    try {
      const response = await call(path, { body, signal });
      started(response.headers.get("x-request-id"));
      let finish = "";
      for await (const event of eventsOf(response)) {
        const [choice] = event.choices;
        this.#append(answer.thought, choice?.delta?.reasoning_content ?? "");
        this.#append(answer.text, choice?.delta?.content ?? choice?.text ?? "");
        finish = choice?.finish_reason ?? finish;
        if (event.usage) this.#note(answer, ending(event.usage, finish));
      }
      answer.isWhole = true;
    } catch (error) {
      this.#note(answer, error.name === "AbortError" ? "stopped" : "not finished");
      throw error;
    }
  }

  #show(role, content) {
    const text = document.createTextNode(content);
    const thought = document.createTextNode("");
    const note = element("p", { class: "note quiet" });
    const box = element("article", { class: role },
      element("h3", {}, role === "user" ? "You" : "Model"),
      element("p", { class: "thought quiet", dir: "auto" }, thought),
      element("p", { class: "text", dir: "auto" }, text), note);
    this.log.append(box);
    this.log.scrollTop = this.log.scrollHeight;
    return { box, text, thought, note, isWhole: false };
  }

  #append(text, more) {
    if (more) this.#atEnd(() => text.appendData(more));
  }

  #note({ note }, words) {
    this.#atEnd(() => note.append(words));
  }

  /** A reader who has scrolled up is left there. */
  #atEnd(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.log;
    change();
    if (scrollHeight - scrollTop - clientHeight < 40) this.log.scrollTop = this.log.scrollHeight;
  }
}

function bodyOf(messages, model, options) {
  const prompt = messages.map((message) => message.content).join("\n");
  return {
    model: model.id,
    ...(model.has_chat_template ? { messages } : { prompt }),
    ...options,
    stream: true,
    stream_options: { include_usage: true },
  };
}

function ending(usage, finish) {
  const cached = usage.prompt_tokens_details?.cached_tokens;
  const prompt = count(usage.prompt_tokens, "token") + (cached ? `, ${cached} of them cached` : "");
  const why = finish === "length" ? "; it reached the most tokens" : "";
  return `${prompt} → ${count(usage.completion_tokens, "token")}${why}`;
}
