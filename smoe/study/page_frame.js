// The frame of a page: its sections, its settings, and drawing it anew when they change.

function section(title, content) {
  const id = `section-${title.toLowerCase().replaceAll(" ", "-")}`;
  return element("section", { "aria-labelledby": id }, element("h2", { id }, title), ...content.flat());
}

let build = () => {};

function rebuild() {
  saveState();
  build();
}

// Settings that are lists to choose from, by the names of their elements and their places in the state.
function choices(ids) {
  for (const id of ids) {
    byId(id).value = state[id];
    byId(id).addEventListener("change", (event) => { state[id] = event.target.value; applyTheme(); rebuild(); });
  }
}

// Which of several {key, name, color} are in the charts; state.hidden holds the keys of the others.
function checkboxes(items) {
  byId("runs").hidden = false;
  items.forEach((item, i) => {
    const box = element("input", { type: "checkbox", id: `run-${i}`, autocomplete: "off", checked: !state.hidden.includes(item.key) });
    box.addEventListener("change", () => {
      state.hidden = items.filter((_, other) => !byId(`run-${other}`).checked).map((other) => other.key);
      rebuild();
    });
    byId("runs").append(element("label", {}, box, element("span", { class: "swatch", style: `background: var(--${item.color})` }), item.name));
  });
}

// Draws the page, the sections that `content` gives, and keeps it right when its settings or its size change.
function showPage(content) {
  build = () => {
    plots.splice(0).forEach((plot) => plot.destroy());
    byId("report").replaceChildren(...content());
    plots.forEach((plot) => plot.draw());
  };
  choices(["theme"]);
  darkSystem.addEventListener("change", () => { applyTheme(); plots.forEach((plot) => plot.draw()); });
  byId("tables").checked = state.tables;
  byId("tables").addEventListener("change", (event) => {
    state.tables = event.target.checked;
    document.querySelectorAll("details[data-table]").forEach((part) => { part.open = state.tables; });
  });
  history.scrollRestoration = "manual";
  addEventListener("pagehide", saveState);
  build();
  new ResizeObserver(() => plots.forEach((plot) => plot.resize())).observe(byId("report"));
  window.scrollTo(0, state.scroll);
  byId(state.focus)?.focus({ preventScroll: true });
}
