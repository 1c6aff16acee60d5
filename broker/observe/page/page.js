"use strict";

// Everything that comes from the broker is inserted as text, never as markup.

const REFRESH_MS = 5000;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 100;
// Positions in a point of `points`.
const [TIME, RATE, P50, P99, ERRORS, WAITING, UNDER_WAY] = [0, 1, 2, 3, 4, 5, 6];

// Numbers that are words, and need room.
const TEXTS = new Set(["Store", "Events"]);

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value >= 100 ? 0 : 1 });

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function time(seconds) {
  if (seconds === null) return "–";
  for (const [factor, unit] of [[1, "s"], [1e3, "ms"]]) {
    if (seconds * factor >= 1) return `${Number((seconds * factor).toPrecision(3))} ${unit}`;
  }
  return `${Number((seconds * 1e6).toPrecision(3))} µs`;
}

function longTime(seconds) {
  const [days, hours, minutes] = [86400, 3600, 60].map((unit) => Math.floor(seconds / unit));
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

function drawing(paths) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const [data, className] of paths) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", data);
    if (className) path.setAttribute("class", className);
    svg.append(path);
  }
  return svg;
}

// A line through points [x, y] from 0 to 1; it is broken where y is null.
function line(points) {
  let down = false;
  return points.map(([x, y]) => {
    if (y === null) {
      down = false;
      return "";
    }
    const step = `${down ? "L" : "M"}${(x * WIDTH).toFixed(1)} ${(HEIGHT - 2 - y * (HEIGHT - 4)).toFixed(1)}`;
    // A point between two gaps is drawn as a short line.
    const drawn = down ? step : `${step}h0.5`;
    down = true;
    return drawn;
  }).join("");
}

function figure(title, data, series, show) {
  const end = data.points.length ? data.points[data.points.length - 1][TIME] : 0;
  const values = series.flatMap(([position]) => data.points.map((point) => point[position] ?? 0));
  const top = Math.max(...values, 0) || 1;
  const scaled = (position) => data.points.map((point) => [
    1 - (end - point[TIME]) / data.kept_seconds, point[position] === null ? null : point[position] / top]);
  const paths = series.map(([position, , className]) => [line(scaled(position)), className]);
  const made = element("figure");
  const caption = element("figcaption");
  const names = element("span");
  names.append(element("b", title));
  for (const [, name, className] of series) {
    if (name) names.append(" ", element("span", name, className ? "key-two" : "key-one"));
  }
  caption.append(names, element("span", `max ${show(Math.max(...values, 0))}`));
  const axis = element("figcaption");
  axis.append(element("span", `−${data.kept_seconds / 60} min`), element("span", "now"));
  made.append(caption, drawing(paths), axis);
  return made;
}

function showNotices(view, problem) {
  const texts = problem ? [problem] : [];
  if (view && view.stuck) {
    texts.push(`The event loop has not turned for ${Math.round(view.age)} s: the numbers below are from then.`);
  }
  if (view) texts.push(...view.not_ready.map((why) => `Not ready: ${why}`));
  byId("notices").replaceChildren(...texts.map((text) => element("p", text)));
}

function showNumbers(view) {
  const events = Object.entries(view.events).filter(([, count]) => count);
  const lost = view.log_dropped ? [["Log records lost", number(view.log_dropped), true]] : [];
  const numbers = [
    ["Rate", `${number(view.rate)}/s`],
    ["P99", time(view.p99)],
    ["Errors", `${number(view.errors)} %`, view.errors >= 1],
    ["Rejected", `${number(view.rejected)}/s`, view.rejected >= 0.05],
    ["Queue", number(view.waiting)],
    ["Under way", number(view.under_way)],
    ["Workers", `${view.workers_ready} of ${view.workers_wanted}`, view.workers_ready < view.workers_wanted],
    ["Store", view.store, view.store_errors > 0],
    ["Events", events.map(([name, count]) => `${number(count)} ${name.replaceAll("_", " ")}`).join(", ") || "none"],
    ...lost,
  ];
  byId("numbers").replaceChildren(...numbers.map(([name, value, bad]) => {
    const made = element("div", undefined, TEXTS.has(name) ? "text" : "");
    made.append(element("dt", name), element("dd", value, bad ? "bad" : ""));
    return made;
  }));
}

function hookRow(hook) {
  const row = element("tr");
  const name = element("td");
  name.title = `${hook.bundle} ${hook.hook}`;
  if (hook.bundle) name.append(element("span", hook.bundle, "quiet"));
  name.append(element("span", hook.hook));
  const top = Math.max(...hook.rates) || 1;
  const count = Math.max(hook.rates.length - 1, 1);
  const trend = element("td", undefined, "wide");
  const outline = line(hook.rates.map((rate, index) => [index / count, rate / top]));
  trend.append(drawing([[`${outline}V${HEIGHT}H0Z`, "fill"], [outline, ""]]));
  row.append(
    name,
    element("td", number(hook.rate), "number"),
    element("td", time(hook.p50), "number wide"),
    element("td", time(hook.p99), "number"),
    element("td", number(hook.errors), hook.errors >= 1 ? "number bad" : "number"),
    element("td", number(hook.busy), "number"),
    element("td", hook.breaker, "bad"),
    trend,
  );
  return row;
}

function show(data) {
  const view = data.view;
  const state = view.reloading ? " · reloading" : "";
  byId("about").textContent = `${view.version} · pid ${view.pid} · up ${longTime(view.uptime)}${state}`;
  showNotices(view);
  showNumbers(view);
  byId("plots").replaceChildren(
    figure("Dispatches per second", data, [[RATE, ""]], number),
    figure("Time", data, [[P50, "p50", ""], [P99, "p99", "two"]], time),
    figure("Errors, %", data, [[ERRORS, ""]], number),
    figure("Dispatches", data, [[WAITING, "waiting", ""], [UNDER_WAY, "under way", "two"]], number),
  );
  byId("hooks").replaceChildren(...view.hooks.map(hookRow));
  byId("more").textContent = data.hidden_hooks ? `and ${data.hidden_hooks} more` : view.hooks.length ? "" : "No dispatches yet.";
}

async function refresh() {
  try {
    const answer = await fetch("live.json", { signal: AbortSignal.timeout(REFRESH_MS) });
    if (!answer.ok) throw new Error(`the broker answers with ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    showNotices(null, `No new numbers: ${error.message}`);
  }
  setTimeout(refresh, REFRESH_MS);
}

refresh();
