// Elements from plain values. Text is only ever set as text.

export const find = (id) => document.getElementById(id);

/** `element("td", { class: "number" }, "12")`; children are elements or texts. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** Terms and what is to be said of them. */
export function facts(pairs) {
  const list = element("dl");
  for (const [term, ...texts] of pairs) {
    list.append(element("dt", {}, term), element("dd", {}, ...texts));
  }
  return list;
}

export const milliseconds = (seconds) =>
  (seconds * 1000).toLocaleString("en", { maximumFractionDigits: seconds < 0.1 ? 1 : 0 }) + " ms";

export const count = (number, noun) =>
  `${Number(number).toLocaleString("en")} ${noun}${Number(number) === 1 ? "" : "s"}`;

/** decode-1a2b3c4d5e6f → decode-1a2b3c: enough to tell workers apart. */
export const shortId = (id) => id.replace(/-([0-9a-f]{6})[0-9a-f]+$/, "-$1");
