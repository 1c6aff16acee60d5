"use strict";

// Everything that comes from requests and plugins is inserted as text, never as markup.

const REQUESTS = "/__tykpy/requests";
const RETRY_MS = 1000;
const BETWEEN_MS = 100;
const STATUS_MS = 2500;
const LONG_VALUE = 60;
const TITLES = {
  request: "Request, as it arrived",
  sent: "Request, as the upstream got it",
  received: "Response of the upstream",
  response: "Response, as the client got it",
};

const byId = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const selected = () => Number(location.hash.slice(1)) || 0;
const style = (status) => (status === null || status >= 500 ? "bad" : status >= 400 ? "warn" : "good");

let requests = [];
// The entry of the list whose details are on the page, as JSON; with it changes what is to be fetched.
let shown = "";

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Makes an element of each item; a list that was cut ends with the number of what is left out.
function each(items, make) {
  return items.map((item) => (item.more ? element("p", "quiet", `${item.more} more`) : make(item)));
}

function time(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  return seconds >= 1e-3 ? `${(seconds * 1e3).toFixed(1)} ms` : `${Math.round(seconds * 1e6)} µs`;
}

function folded(title, isOpen, ...children) {
  const made = element("details", "", element("summary", "", title), ...children);
  made.open = isOpen;
  return made;
}

// The list.

function row(one) {
  const link = element("a", "", element("span", "method", one.method), " ", element("span", "path", one.url), " ",
    element("span", `status ${style(one.status)}`, one.status === null ? "dropped" : String(one.status)), " ",
    element("span", "quiet", `${new Date(one.started * 1e3).toLocaleTimeString()} · ${time(one.seconds)}`), " ",
    element("span", "quiet api", one.api));
  link.href = `#${one.number}`;
  if (one.number === selected()) link.setAttribute("aria-current", "true");
  return element("li", "", link);
}

function showList() {
  const focused = byId("list").contains(document.activeElement) ? document.activeElement.hash : "";
  byId("list").replaceChildren(...requests.map(row));
  if (focused) byId("list").querySelector(`a[href="${focused}"]`)?.focus({ preventScroll: true });
  byId("count").textContent = requests.length ? `${requests.length} request${requests.length === 1 ? "" : "s"}, the last 200 are kept`
    : `No requests yet. Send one to ${location.origin}/`;
}

// The details.

// What two texts have in common at the start and at the end is not marked.
function marked(text, other) {
  if (other === null || Math.max(text.length, other.length) < LONG_VALUE) return [text];
  const shorter = Math.min(text.length, other.length);
  let start = 0;
  while (start < shorter && text[start] === other[start]) start += 1;
  let end = 0;
  while (end < shorter - start && text[text.length - 1 - end] === other[other.length - 1 - end]) end += 1;
  const middle = text.length - end;
  return [text.slice(0, start), element("mark", "", text.slice(start, middle)), text.slice(middle)];
}

function change(one) {
  const sign = one.before === null ? "+" : one.after === null ? "−" : "~";
  const values = element("div", "values");
  if (one.before !== null) values.append(element("del", "", ...marked(one.before, one.after)));
  if (one.after !== null) values.append(element("ins", "", ...marked(one.after, one.before)));
  const length = [one.path, one.before, one.after].reduce((sum, text) => sum + (text || "").length, 0);
  const kind = { "+": "added", "−": "removed", "~": "changed" }[sign];
  return element("div", `change ${kind}${length < LONG_VALUE ? " short" : ""}`,
    element("span", "sign", sign), element("code", "", one.path), values);
}

function frame(one) {
  const lines = element("ol", "source");
  for (const [number, text] of one.source) {
    const line = element("li", number === one.line ? "here" : "", element("code", "", text || " "));
    line.value = number;
    lines.append(line);
  }
  const variables = element("table", "", ...each(one.variables, ([name, value]) =>
    element("tr", "", element("th", "", name), element("td", "", element("code", "", value)))));
  const place = `${one.file}:${one.line}${one.function ? ` in ${one.function}` : ""}`;
  return folded(place, one.is_plugin, lines, variables);
}

function problem(one) {
  return element("div", "problem", element("p", "", one.exception || one.message),
    one.exception ? element("p", "quiet", one.message) : null, ...each(one.frames, frame));
}

// What a hook and an event handler have in common.
function outcome(one) {
  return [
    one.printed.length ? element("pre", "printed", ...each(one.printed, (line) =>
      element("div", ["stdout", "info", "debug"].includes(line.source) ? "" : "warn", line.text || " "))) : null,
    ...each(one.triggered || [], (event) => element("p", "", "triggered ", element("b", "", event.name), ` ${event.payload}`)),
    one.problem ? problem(one.problem) : null,
  ];
}

function object(title, value) {
  return value === null ? null : folded(title, false, element("pre", "", JSON.stringify(value, null, 2)));
}

function hook(one) {
  return element("section", one.problem ? "card failed" : "card",
    element("h3", "", element("span", "type", one.hook_type), " ", one.name, " ", element("span", "quiet", time(one.seconds))),
    ...each(one.changes, change),
    one.changes.length || one.problem ? null : element("p", "quiet", "changed nothing"),
    ...each(one.ignored, (ignored) => element("p", "warn", `${ignored.what}; ${ignored.instead}`)),
    ...outcome(one),
    object("object before", one.before),
    object("object after", one.after));
}

function step(one) {
  if (one.kind === "hook") return hook(one);
  return element("p", "note", element("span", "type", one.stage), ` ${one.text} `,
    element("span", "quiet", one.seconds ? time(one.seconds) : ""));
}

function handler(one) {
  return element("section", one.problem ? "card failed" : "card",
    element("h3", "", element("span", "type", "Event"), ` ${one.event} → ${one.handler} `, element("span", "quiet", time(one.seconds))),
    ...outcome(one));
}

function message(one, number) {
  const headers = element("table", "", ...each(one.headers, (header) =>
    element("tr", "", element("th", "", header.name), element("td", "", element("code", "", header.value)))));
  const made = folded(TITLES[one.name], one.name === "response", element("p", "first", one.first_line), headers);
  if (one.size) {
    const link = element("a", "", `${one.size.toLocaleString("en")} bytes`);
    link.href = `${REQUESTS}/${number}/bodies/${one.name}`;
    link.download = "";
    made.append(element("pre", "", one.body), element("p", "quiet", one.is_cut ? "cut; whole body: " : "body: ", link));
  }
  return made;
}

function button(text, act) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await act();
    } catch (error) {
      tell(`${text}: ${error.message}`);
    }
    made.disabled = false;
  });
  return made;
}

function showDetails(one) {
  const back = element("a", "back", "← all requests");
  back.href = "#";
  const whole = element("a", "", "everything as JSON");
  whole.href = `${REQUESTS}/${one.number}/trace`;
  byId("details").replaceChildren(
    back,
    element("h2", "", `${one.method} ${one.url}`),
    element("p", "", element("b", style(one.status), one.status === null ? "connection dropped" : String(one.status)), " ",
      element("span", "quiet", `${time(one.seconds)} · ${one.api || "no API"} · ${new Date(one.started * 1e3).toLocaleString()}`)),
    element("p", "actions",
      button("Send again", () => sendAgain(one.number)),
      button("Copy as curl", () => copy(`${REQUESTS}/${one.number}/curl`)),
      button("Copy as test", () => copy(`${REQUESTS}/${one.number}/test`)),
      whole),
    element("p", "quiet", "Copies have the real values, secrets too."),
    one.error ? element("p", "error", one.error) : "",
    element("h2", "", "What happened"),
    ...each(one.steps, step),
    ...each(one.events, handler),
    one.steps.length ? "" : element("p", "quiet", "No hook was called."),
    element("h2", "", "Messages"),
    ...one.messages.map((each) => message(each, one.number)));
}

async function refreshDetails() {
  const number = selected();
  const entry = requests.find((one) => one.number === number);
  document.body.classList.toggle("has-details", number > 0);
  const wanted = entry ? JSON.stringify([entry, byId("secrets").checked]) : "";
  if (wanted && wanted === shown) return;
  if (!entry) {
    shown = "";
    const text = number ? `Request ${number} is not one of the last 200.` : requests.length ? "Select a request." : "";
    byId("details").replaceChildren(element("p", "quiet", text));
    return;
  }
  const details = await get(`${REQUESTS}/${number}${byId("secrets").checked ? "?secrets=1" : ""}`);
  if (number !== selected()) return;
  shown = wanted;
  showDetails(details);
}

// Requests to tykpy dev.

async function get(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error((await answer.text()) || `tykpy dev answers with ${answer.status}`);
  return answer.headers.get("Content-Type").startsWith("application/json") ? answer.json() : answer.text();
}

async function sendAgain(number) {
  const sent = await get(`${REQUESTS}/${number}/send`, { method: "POST", headers: { "X-Tykpy": "1" } });
  location.hash = sent.number;
}

async function copy(path) {
  const text = await get(path);
  try {
    await navigator.clipboard.writeText(text);
    tell("Copied.");
  } catch {
    byId("copy").querySelector("textarea").value = text;
    byId("copy").showModal();
    byId("copy").querySelector("textarea").select();
  }
}

function tell(text) {
  byId("status").textContent = text;
  setTimeout(() => {
    if (byId("status").textContent === text) byId("status").textContent = "";
  }, STATUS_MS);
}

async function refresh() {
  showList();
  try {
    await refreshDetails();
  } catch (error) {
    tell(error.message);
  }
}

async function follow() {
  let revision = -1;
  for (;;) {
    try {
      const news = await get(`${REQUESTS}?since=${revision}`);
      revision = news.revision;
      requests = news.requests;
      byId("notices").replaceChildren(...news.problems.map((text) => element("p", "", text)));
      await refresh();
    } catch (error) {
      revision = -1;
      byId("notices").replaceChildren(element("p", "", `No answer from tykpy dev: ${error.message}`));
      await pause(RETRY_MS);
    }
    await pause(BETWEEN_MS);
  }
}

addEventListener("hashchange", refresh);
byId("secrets").addEventListener("change", refresh);
follow();
