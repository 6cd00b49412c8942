// Charts: lines by uPlot, heat maps on a canvas. Each has a name that is read aloud, and a table.

const plots = [];  // what a change of theme or settings makes anew

const kPalette = 8;
const runColor = (run) => `c${run % kPalette}`;

// "training: 5.51 at 5 to 2.36 at 240", for a reader that sees no chart.
function inWords(series, xName) {
  const points = series.x.map((x, i) => [x, series.y[i]]).filter(([, y]) => isNumber(y));
  if (points.length === 0) return `${series.label}: no values`;
  const [first, last] = [points[0], points[points.length - 1]];
  if (points.length === 1) return `${series.label}: ${short(first[1])} at ${xName} ${short(first[0])}`;
  return `${series.label}: from ${short(first[1])} at ${xName} ${short(first[0])} to ${short(last[1])} at ${short(last[0])}`;
}

const kTableRows = 200;

// The values of all series at each x; of very many the table takes evenly spread ones and the last.
function chartTable(spec, joined) {
  const count = joined[0].length, stride = Math.max(1, Math.ceil(count / kTableRows));
  const places = [...Array(count).keys()].filter((i) => i % stride === 0 || i === count - 1);
  const note = stride > 1 ? `, ${places.length} of ${count} rows` : "";
  return table(`${spec.title}${note}`, [spec.xName, ...spec.series.map((series) => series.label)],
    places.map((i) => joined.map((values) => (values[i] == null ? "" : digits(values[i])))));
}

// Where series have errors, a range that holds their bars too; undefined leaves it to uPlot.
function rangeWithErrors(spec) {
  if (!spec.series.some((series) => series.error?.some(isNumber))) return undefined;
  const ends = spec.series.flatMap((series) => series.y.flatMap((y, i) => [y - (series.error?.[i] ?? 0), y + (series.error?.[i] ?? 0)]));
  return uPlot.rangeNum(Math.min(...ends), Math.max(...ends), 0.1, false);
}

function plotOptions(spec, width) {
  const axis = { stroke: color("ink-soft"), grid: { stroke: color("grid"), width: 1 }, ticks: { stroke: color("grid"), width: 1 },
                 values: (_, splits) => splits.map((value) => (value == null ? "" : short(value))), font: "12px system-ui, sans-serif" };
  return {
    width, height: width < 420 ? 220 : 270,
    scales: { x: { time: false, range: spec.xRange }, y: { range: spec.yRange ?? rangeWithErrors(spec) } },
    axes: [{ ...axis, label: spec.xName, labelFont: axis.font, labelSize: 18, size: 34, space: 60 }, { ...axis, size: 58 }],
    legend: { markers: { width: 3, dash: (_, i) => (spec.series[i - 1]?.dash ? "dashed" : "solid") } },
    cursor: { points: { size: 7 } },
    hooks: { draw: [(plot) => drawErrors(plot, spec)] },
    series: [{ label: spec.xName, value: (_, value) => (value == null ? "–" : short(value)) },
      ...spec.series.map((series) => ({
        label: series.label, stroke: color(series.color), width: series.thin ? 1 : 2, dash: series.dash,
        paths: series.stairs ? uPlot.paths.stepped({ align: -1 }) : undefined,
        points: { show: series.x.length < 60 && !series.flat, size: 5, fill: color("panel") },
        value: (_, value) => (value == null ? "–" : digits(value)),
      }))],
  };
}

// Vertical bars of plus and minus `error` around the points of each series that has them.
function drawErrors(plot, spec) {
  const context = plot.ctx, ratio = window.devicePixelRatio;
  spec.series.forEach((series, i) => {
    if (!series.error || !plot.series[i + 1].show) return;
    context.save();
    context.strokeStyle = color(series.color);
    context.lineWidth = 1.5 * ratio;
    series.error.forEach((error, j) => {
      if (!isNumber(error)) return;
      const x = plot.valToPos(series.x[j], "x", true);
      const [top, bottom] = [series.y[j] + error, series.y[j] - error].map((y) => plot.valToPos(y, "y", true));
      context.beginPath();
      for (const y of [top, bottom]) {
        context.moveTo(x - 3 * ratio, y);
        context.lineTo(x + 3 * ratio, y);
      }
      context.moveTo(x, top);
      context.lineTo(x, bottom);
      context.stroke();
    });
    context.restore();
  });
}

// spec: id, title, note, xName, series [{label, color, x, y, error, dash, thin, flat, stairs}], xRange, yRange. x must rise.
function lineChart(spec) {
  const joined = uPlot.join(spec.series.map((series) => [series.x, series.y]));
  const place = element("div", { class: "plot", role: "img",
    "aria-label": `${spec.title} over ${spec.xName}. ${spec.series.map((series) => inWords(series, spec.xName)).join("; ")}` });
  const figure = element("figure", { id: spec.id },
    element("figcaption", {}, spec.title, spec.note ? element("small", {}, spec.note) : null), place,
    opening(`${spec.id}-table`, `Table of ${spec.title.toLowerCase()}`, () => chartTable(spec, joined), true));
  let plot = null;
  plots.push({
    destroy: () => plot?.destroy(),
    draw() {
      plot?.destroy();
      const width = Math.floor(place.clientWidth);
      if (width > 0) plot = new uPlot(plotOptions(spec, width), joined, place);
    },
    resize() {
      const width = Math.floor(place.clientWidth);
      if (plot !== null && width > 0 && width !== plot.width) plot.setSize({ width, height: plot.height });
    },
  });
  return figure;
}

// ---- Heat maps

const rgb = (name) => color(name).match(/[0-9a-f]{2}/gi).map((hex) => parseInt(hex, 16));
const mix = (a, b, t) => a.map((value, i) => value + (b[i] - value) * t);

// From a quarter of the even share (low) by way of the even share to four times it (high); no tokens at all is apart.
function heatColors() {
  const [zero, low, even, high] = ["heat-zero", "heat-low", "heat-even", "heat-high"].map(rgb);
  return (load, experts) => {
    if (load === 0) return zero;
    const t = Math.max(-1, Math.min(1, Math.log2(load * experts) / 2));
    return t < 0 ? mix(even, low, -t) : mix(even, high, t);
  };
}

function heatScale() {
  const item = (name, text) => element("span", {}, element("i", { style: `background: var(--${name})` }), text);
  return element("p", { class: "scale" }, item("heat-zero", "no tokens"), item("heat-low", "a quarter of the even share or less"),
    item("heat-even", "even share"), item("heat-high", "four times it or more"));
}

// One layer: a column for each step, a row for each expert, expert 0 on top.
function heatMap(layer, columns, steps, readout) {
  const experts = columns[0].length, last = columns[columns.length - 1];
  const idle = last.filter((load) => load === 0).length, most = Math.max(...last);
  const words = `Layer ${layer}, load of ${experts} experts over steps ${steps[0]} to ${steps[steps.length - 1]}. At the end ` +
    `expert ${last.indexOf(most)} has the largest share, ${digits(most)}; ${idle} experts have no tokens`;
  const canvas = element("canvas", { width: columns.length, height: experts, role: "img", "aria-label": words });
  canvas.style.height = `${Math.max(64, Math.min(320, 8 * experts))}px`;
  canvas.addEventListener("pointermove", (event) => {
    const at = (offset, size, count) => Math.max(0, Math.min(count - 1, Math.floor((offset / size) * count)));
    const column = at(event.offsetX, canvas.clientWidth, columns.length), row = at(event.offsetY, canvas.clientHeight, experts);
    const load = columns[column][row];
    readout.textContent = `Layer ${layer}, step ${steps[column]}, expert ${row}: ${digits(load)}, ` +
      `${short(load * experts)} times the even share`;
  });
  plots.push({
    destroy() {},
    resize() {},
    draw() {
      const context = canvas.getContext("2d"), image = context.createImageData(columns.length, experts);
      const colors = heatColors();
      columns.forEach((loads, x) => loads.forEach((load, y) => {
        image.data.set([...colors(load, experts), 255], 4 * (y * columns.length + x));
      }));
      context.putImageData(image, 0, 0);
    },
  });
  return element("div", { class: "map" }, `Layer ${layer}`, canvas,
    element("div", { class: "ends" }, element("span", {}, `step ${steps[0]}`), element("span", {}, `${steps[steps.length - 1]}`)));
}

const kHeatRows = 24;

function heatTable(name, load) {
  const stride = Math.max(1, Math.ceil(load.step.length / kHeatRows));
  const places = load.step.map((_, i) => i).filter((i) => i % stride === 0 || i === load.step.length - 1);
  const experts = load.layers[0][0].map((_, expert) => `expert ${expert}`);
  return element("div", {}, load.layers.map((columns, layer) => table(`${name}, layer ${layer}: share of the assignments`,
    ["step", ...experts.slice(0, columns[0].length)], places.map((i) => [String(load.step[i]), ...columns[i].map(digits)]))));
}

function heatFigure(id, run) {
  const readout = element("p", { class: "readout" }, "Point at a map for its numbers.");
  return element("figure", { id }, element("figcaption", {}, run.name), readout,
    element("div", { class: "maps" }, run.load.layers.map((columns, layer) => heatMap(layer, columns, run.load.step, readout))),
    opening(`${id}-table`, `Tables of the load in ${run.name}`, () => heatTable(run.name, run.load), true));
}
