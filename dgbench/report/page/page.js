"use strict";

// Tabs: without this script every panel is shown, under its heading.
for (const group of document.querySelectorAll(".tabs")) {
  const list = group.querySelector(":scope > [role=tablist]");
  if (!list) continue;
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const choose = (chosen, focus) => {
    for (const tab of tabs) {
      const selected = tab === chosen;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !selected;
    }
    if (focus) chosen.focus();
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    choose(tabs[(to + tabs.length) % tabs.length], true);
  });
  list.hidden = false;
  choose(tabs[0]);
}

/** Compare two values of a column; what is not there comes last, whichever the direction. */
function compare(one, other, direction) {
  if (one === other) return 0;
  if (one === undefined || one === null) return 1;
  if (other === undefined || other === null) return -1;
  const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
  return direction * order;
}

/** Mark the column by which a table is sorted; return 1 for ascending, -1 for descending. */
function turn(header, descendingFirst) {
  const before = header.getAttribute("aria-sort");
  const first = descendingFirst ? "descending" : "ascending";
  const after = before === "none" ? first : before === "ascending" ? "descending" : "ascending";
  for (const other of header.parentElement.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", after);
  return after === "ascending" ? 1 : -1;
}

// Tables of results: a click on a column's name sorts, numbers from the highest.
for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (!header) return;
    const place = header.cellIndex;
    const direction = turn(header, place > 0);
    const value = (row) => {
      const cell = row.cells[place];
      if (place === 0) return cell.textContent;
      return "value" in cell.dataset ? Number(cell.dataset.value) : undefined;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b), direction)));
  });
}

// Runs: the list is data, of which a page at a time becomes lines of the table.
const PAGE = 50;
const COLUMNS = [
  ["method", "method"], ["data set", "dataset"], ["held out", "held_out"], ["trial", "trial"], ["draw", "hparams_seed"],
  ["state", "state"], ["out of domain", "last"], ["seconds", "seconds"],
];
const DECIMAL = new Set(["last", "seconds"]);
const runs = JSON.parse(document.getElementById("run-data").textContent);
const several = new Set(runs.map((run) => run.folder)).size > 1;
if (several) COLUMNS.push(["folder", "folder"]);
const runTable = document.getElementById("run-table");
const filter = document.getElementById("filter");
const more = document.getElementById("more");
let chosen = runs;
let shown = 0;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Draw the curves of one predictor: dashed in the training domains, solid out of them. */
function drawCurves(name, curve) {
  const svgNames = "http:" + "//www.w3.org/2000/svg"; // the name that browsers ask for; nothing is fetched from it
  const make = (tag, attributes) => {
    const made = document.createElementNS(svgNames, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const values = [...curve.out, ...(curve.in || [])].filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [curve.steps[0], curve.steps[curve.steps.length - 1]];
  const x = (step) => 36 + (208 * (step - first)) / (last - first);
  const y = (value) => 92 - (82 * (value - low)) / (high - low || 1);
  const said = `${name}: out of domain ${curve.out[0]} to ${curve.out[curve.out.length - 1]} from step ${first} to ${last}`;
  const svg = make("svg", { viewBox: "0 0 250 112", role: "img", "aria-label": said });
  svg.append(make("path", { d: "M36 6V92H246", fill: "none", stroke: "var(--soft)" }));
  const text = (content, attributes) => {
    const made = make("text", { "font-size": 9, fill: "var(--ink)", ...attributes });
    made.textContent = content;
    svg.append(made);
  };
  text(high.toFixed(1), { x: 32, y: 13, "text-anchor": "end" });
  text(low.toFixed(1), { x: 32, y: 92, "text-anchor": "end" });
  text(first, { x: 36, y: 105 });
  text(last, { x: 246, y: 105, "text-anchor": "end" });
  for (const [key, color, dash] of [["in", "var(--soft)", "4 3"], ["out", "var(--c0)", ""]]) {
    const points = (curve[key] || []).map((value, i) => (value === null ? "" : `${x(curve.steps[i])},${y(value)}`));
    svg.append(make("polyline", { points: points.join(" "), fill: "none", stroke: color, "stroke-width": 1.6, "stroke-dasharray": dash }));
  }
  return svg;
}

function facts(pairs) {
  const list = element("dl", { class: "facts" });
  for (const [key, value] of pairs) {
    if (value !== undefined) list.append(element("div", {}, element("dt", {}, key), element("dd", {}, String(value))));
  }
  return list;
}

/** Return everything that is known of a run. */
function details(run) {
  const found = [];
  if (run.why) found.push(element("p", { class: "state failed" }, run.why));
  const curves = element("div", { class: "curves" });
  for (const [name, curve] of Object.entries(run.curves || {})) {
    const last = curve.out[curve.out.length - 1];
    const said = `${name}: ${last === null ? "no number" : last} out of domain at step ${curve.steps[curve.steps.length - 1]}`;
    const box = element("div", {}, element("p", {}, said));
    if (curve.steps.length > 1) box.append(drawCurves(name, curve));
    curves.append(box);
  }
  found.push(curves);
  const gib = run.peak_bytes && `${(run.peak_bytes / 2 ** 30).toFixed(2)} GiB`;
  found.push(facts([["run", run.run], ["kind", run.kind], ["folder", run.folder], ["host", run.host], ["device", run.device], ["peak memory", gib]]));
  found.push(facts(Object.entries(run.hparams || {})));
  if (run.tail) found.push(element("p", {}, "End of ", element("code", {}, run.log)), element("pre", { tabindex: 0 }, run.tail));
  return found;
}

function lines(run, number) {
  const id = `run-${number}`;
  const toggle = element("button", { type: "button", class: "toggle", "aria-expanded": "false", "aria-controls": id }, run.method);
  const line = element("tr", {}, element("th", { scope: "row" }, toggle));
  for (const [, key] of COLUMNS.slice(1)) {
    const value = run[key] ?? "";
    const cell = element("td", {}, typeof value === "number" && DECIMAL.has(key) ? value.toFixed(1) : String(value));
    if (key === "state") cell.replaceChildren(element("span", { class: `state ${value}` }, value));
    line.append(cell);
  }
  const detail = element("tr", { class: "detail", id });
  detail.hidden = true;
  toggle.addEventListener("click", () => {
    if (!detail.cells.length) detail.append(element("td", { colspan: COLUMNS.length }));
    if (detail.hidden) detail.cells[0].replaceChildren(...details(run));
    detail.hidden = !detail.hidden;
    toggle.setAttribute("aria-expanded", String(!detail.hidden));
  });
  return [line, detail];
}

function showMore() {
  const next = chosen.slice(shown, shown + PAGE);
  runTable.tBodies[0].append(...next.flatMap((run, i) => lines(run, shown + i)));
  shown += next.length;
  more.hidden = shown >= chosen.length;
  document.getElementById("found").textContent = `${chosen.length} of ${runs.length} runs, ${shown} shown`;
}

function show(found) {
  chosen = found;
  shown = 0;
  runTable.tBodies[0].replaceChildren();
  showMore();
}

function matching() {
  const words = filter.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = filter.state.value;
  return runs.filter((run) => (!state || run.state === state) && words.every((word) => run.text.includes(word)));
}

for (const run of runs) {
  const curves = Object.values(run.curves || {});
  const own = (run.curves || {}).model || curves[0];
  run.last = own && own.out[own.out.length - 1];
  const hparams = Object.entries(run.hparams || {}).map(([name, value]) => `${name}=${value}`);
  run.text = [run.method, run.dataset, `[${run.held_out}]`, run.state, run.why, run.run, run.folder, ...hparams].join(" ").toLowerCase();
}
for (const [name, key] of COLUMNS) {
  const header = element("th", { scope: "col", "aria-sort": "none" }, element("button", { type: "button" }, name));
  header.addEventListener("click", () => {
    const direction = turn(header, key === "last" || key === "seconds");
    runs.sort((a, b) => compare(a[key], b[key], direction));
    show(matching());
  });
  runTable.tHead.rows[0].append(header);
}
for (const state of new Set(runs.map((run) => run.state))) filter.state.append(element("option", { value: state }, state));
filter.addEventListener("input", () => show(matching()));
filter.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", showMore);
filter.hidden = runTable.hidden = false;
show(runs);
