"use strict";
// What the page is built from: elements, numbers as text, tables, and the state that outlives a reload.

// An element. Children are elements or text; text never becomes markup, whatever a run's name holds.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

const byId = (id) => document.getElementById(id);
const isNumber = (value) => typeof value === "number";

// Six digits: "3.04512", "2.07421e+6" as "2074210".
function digits(value) {
  if (value == null) return "–";
  if (!isNumber(value)) return String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
}

// Few digits and a unit: "1.5 M", "1.25e-3".
function short(value) {
  if (value == null) return "–";
  if (value !== 0 && Math.abs(value) < 0.01) return String(Number(value.toPrecision(4)).toExponential());
  for (const [unit, name] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (Math.abs(value) >= unit) return Number((value / (name === " k" ? 1e3 : unit)).toPrecision(4)) + name;
  }
  return String(Number(value.toPrecision(4)));
}

// A table that scrolls in its own frame, which the keyboard reaches. The first cell of a row is its heading.
function table(caption, head, rows, textColumns = 1) {
  const isText = (i) => (i < textColumns ? "text" : null);
  const cell = (value, i) => (i === 0 ? element("th", { scope: "row", class: isText(i) }, value)
                                      : element("td", { class: isText(i) }, value));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, head.map((name, i) => element("th", { scope: "col", class: isText(i) }, name)))),
      element("tbody", {}, rows.map((row) => element("tr", {}, row.map(cell))))));
}

// A part that opens; its content is made when it first does. `isTable` follows the setting "show all tables".
function opening(id, summary, make, isTable = false) {
  const part = element("details", { id }, element("summary", {}, summary));
  if (isTable) part.dataset.table = "";
  let content = null;
  const show = () => {
    if (part.open && content === null) part.append(content = make());
  };
  part.addEventListener("toggle", show);
  part.open = state.open.includes(id) || (isTable && state.tables);
  show();
  return part;
}

// ---- State: settings, what is open, where the page stands. Kept for this page in this tab.

const stateKey = `smoe-page:${location.pathname}`;
const state = { axis: "step", unit: "bpc", theme: "system", tables: location.hash === "#tables", follow: true,
                hidden: [], open: [], scroll: 0, focus: "" };
try {
  Object.assign(state, JSON.parse(sessionStorage.getItem(stateKey)));
} catch { /* a browser that stores nothing for files: the page starts afresh */ }

function saveState() {
  state.open = [...document.querySelectorAll("details[open]")].map((part) => part.id).filter(Boolean);
  state.scroll = window.scrollY;
  state.focus = document.activeElement?.id ?? "";
  try {
    sessionStorage.setItem(stateKey, JSON.stringify(state));
  } catch { /* as above */ }
}

// ---- Theme

const darkSystem = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const dark = state.theme === "dark" || (state.theme === "system" && darkSystem.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
applyTheme();
