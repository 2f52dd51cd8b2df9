// The life of a request, as the router explains it.

import { readJson } from "./api.js";
import { count, element, facts, milliseconds, shortId } from "./dom.js";

const TRIES = 20; // a request that was stopped ends a moment later
const PAUSE = 250; // ms

/** Errors: as `readJson`. */
export async function explained(id, model) {
  const path = `explain/${encodeURIComponent(id)}?model=${encodeURIComponent(model)}`;
  let told = await readJson(path);
  for (let tried = 1; !told.end && tried < TRIES; tried += 1) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
    told = await readJson(path);
  }
  return told;
}

export function drawRequest(told) {
  return [timeline(spansOf(told)), whereAndWhy(told)];
}

/** As `lengthwise explain` draws them: those of the last attempt. */
export function spansOf(told) {
  const attempt = told.attempts.at(-1);
  const firstToken = told.end?.timings.time_to_first_token_seconds;
  if (!attempt || !firstToken) return [];
  const phases = [
    ["reserve", attempt.decode_worker ? attempt.reserve_seconds : 0],
    ["queue", attempt.queue_seconds],
    ["prefill", attempt.prefill_seconds],
  ];
  const known = phases.reduce((sum, [, seconds]) => sum + seconds, told.admission_seconds);
  const rest = ["other", Math.max(0, firstToken - known)];
  const all = [["admission", told.admission_seconds], ...phases];
  if (told.attempts.length > 1) all.splice(1, 0, ["retries", rest[1]]);
  else all.push(rest);
  let at = 0;
  const spans = all.map(([name, seconds]) => {
    const begin = at;
    at = Math.min(at + Math.max(0, seconds), firstToken);
    return { name, begin, end: at };
  });
  const total = Math.max(firstToken, told.end.timings.total_seconds);
  const moved = Math.min(firstToken + attempt.transfer_seconds, total);
  if (moved > firstToken) spans.push({ name: "transfer", begin: firstToken, end: moved });
  return [...spans, { name: "decode", begin: moved, end: total }];
}

function timeline(spans) {
  const list = element("ol", { class: "timeline", "aria-label": "Timeline" });
  const total = spans.at(-1)?.end || 1;
  for (const { name, begin, end } of spans) {
    const bar = element("span", { class: `bar ${name}` });
    bar.style.marginInlineStart = `${(100 * begin) / total}%`;
    bar.style.width = `${(100 * (end - begin)) / total}%`;
    const track = element("span", { class: "track", "aria-hidden": "true" }, bar);
    list.append(element("li", {}, element("span", {}, name), track,
      element("span", { class: "number" }, milliseconds(end - begin))));
  }
  return list;
}

function whereAndWhy(told) {
  const attempts = told.attempts.map((attempt, index) => {
    const name = told.attempts.length > 1 ? `Attempt ${index + 1}` : "Placed at";
    const why = [attempt.placement_reason, attempt.failure && `failed: ${attempt.failure}`];
    return [name, element("strong", { title: `${attempt.prefill_worker} ${attempt.decode_worker}` },
      whereOf(attempt)), ...why.filter(Boolean).map((text) => element("p", {}, text))];
  });
  return facts([
    ...attempts,
    ["First token", firstTokenOf(told)],
    ["Tokens", `${told.length_class} prompt of ${told.prompt_tokens}, ${told.output_tokens} of at`
      + ` most ${told.max_tokens} out`],
    ["End", told.end ? endOf(told.end) : "not yet"],
    ["Request", element("code", {}, told.request_id)],
  ]);
}

function whereOf({ prefill_worker: prefill, decode_worker: decode }) {
  if (!prefill || !decode) return `${shortId(prefill || decode)} alone`;
  return `${shortId(prefill)} → ${shortId(decode)}`;
}

function firstTokenOf(told) {
  const seconds = told.end?.timings.time_to_first_token_seconds;
  if (!seconds) return "none";
  const attempt = told.attempts[0];
  const chosen = attempt?.candidates.find((each) =>
    each.prefill_worker === attempt.prefill_worker && each.decode_worker === attempt.decode_worker);
  const predicted = chosen?.time_to_first_token_seconds;
  return `after ${milliseconds(seconds)}`
    + (predicted ? `; predicted ${milliseconds(predicted)}` : "");
}

function endOf({ code, timings, preemptions }) {
  const pace = timings.time_per_output_token_seconds;
  return [
    `${code} after ${milliseconds(timings.total_seconds)}`,
    pace ? `${milliseconds(pace)} per token` : "",
    preemptions ? count(preemptions, "preemption") : "",
  ].filter(Boolean).join(", ");
}
