// The page of an analysis: traces of routing, side by side.

const analysis = JSON.parse(byId("data").textContent);
analysis.traces.forEach((trace, i) => { trace.color = runColor(i); trace.id = i; });
const several = analysis.traces.length > 1;
const shownTraces = () => analysis.traces.filter((trace) => !state.hidden.includes(trace.name));
const named = (trace, what) => (several ? `${trace.name}: ${what}` : what);
const fixed = (value, places = 3) => (value == null ? "–" : value.toFixed(places));
const percent = (share) => `${digits(Number((100 * share).toPrecision(3)))} %`;
const charts = (specs) => element("div", { class: "charts" }, specs.filter((spec) => spec.series.some(({ x }) => x.length > 0)).map(lineChart));

function modelSection() {
  return [table("Models", ["", "model", "step", "dial", "tokens", "layers"], analysis.traces.map((trace) => [
    trace.name, trace.model, digits(trace.step), trace.setting || "as its settings say", digits(trace.tokens),
    trace.layers.map(({ layer }) => layer).join(", ")]), 2),
  table("Layers", ["", "layer", "experts", "a token", "networks", "dropped", "largest load / mean"], analysis.traces.flatMap((trace) => trace.layers.map((layer) => [
    trace.name, digits(layer.layer), digits(layer.experts), fixed(layer.experts_per_token, 2), fixed(layer.networks_per_token, 2), percent(layer.dropped),
    short(Math.max(...layer.load) * layer.experts)])))];
}

// A line over the layers for each trace.
const overLayers = (what, of, style = {}) => shownTraces().map((trace) => {
  const rows = trace.layers.filter((layer) => isNumber(of(layer)));
  return { label: named(trace, what), color: trace.color, x: rows.map(({ layer }) => layer), y: rows.map(of), ...style };
});

function tokenSection() {
  return [element("p", {}, "How many bits of the expert a token's id tells, over all assignments before any was dropped. Shuffled: what a sample of this size shows where there is nothing to tell."),
    charts([{ id: "token-information", title: "Mutual information of token id and expert", note: "In bits; dashed: shuffled.", xName: "layer",
      series: [...overLayers("bits", (layer) => layer.token_information.bits), ...overLayers("shuffled", (layer) => layer.token_information.shuffled, { dash: [8, 4] })] },
    { id: "token-share", title: "Share of the expert that the token id tells", note: "The bits over the entropy of the load.", xName: "layer",
      series: overLayers("share", ({ token_information: { bits, entropy } }) => (entropy > 0 ? bits / entropy : 0)) }]),
    element("h3", {}, "Experts a token by class of token"),
    table("Experts a token by class, after drops", ["", "class", "tokens", ...layerNames("layer")], shownTraces().flatMap((trace) => trace.layers[0].classes.map((row, i) => [
      trace.name, row.class, digits(row.tokens), ...trace.layers.map((layer) => both(layer.classes[i]))])), 2),
    element("p", {}, "In brackets those that are networks, where they are fewer.")];
}

const both = ({ experts, networks }) => fixed(experts, 2) + (networks < experts ? ` (${fixed(networks, 2)})` : "");
const layerNames = (what) => [...new Set(analysis.traces.flatMap((trace) => trace.layers.map(({ layer }) => layer)))].sort((a, b) => a - b).map((layer) => `${what} ${layer}`);

// ---- Agreement

function agreementSection() {
  if (!several) return [element("p", { class: "missing" }, "Agreement is of two models or checkpoints: smoe analyze A B …")];
  const isShown = ({ first, second }) => !state.hidden.includes(first) && !state.hidden.includes(second);
  const pairs = analysis.agreement.filter((pair) => pair.reason === null && isShown(pair));
  const last = analysis.traces[analysis.traces.length - 1], mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const toLast = analysis.traces.slice(0, -1).map((trace) => [trace, pairs.find((pair) => pair.first === trace.name && pair.second === last.name)]).filter(([, pair]) => pair);
  const rises = toLast.length > 1 && toLast.every(([trace], i) => i === 0 || trace.step > toLast[i - 1][0].step);
  const points = (of) => ({ x: toLast.map(([trace]) => trace.step), y: toLast.map(([, pair]) => mean(pair.layers.map(of).filter(isNumber))) });
  return [element("p", {}, "The experts that a token has in both, as a share of the larger of its two numbers of experts. By chance: two routers with these loads that know nothing of each other. Experts are matched by their ids, which mean something within one run."),
    charts([{ id: "agreement", title: "Agreement over the layers", note: "Dashed: by chance.", xName: "layer", series: pairs.slice(0, 8).flatMap((pair, i) => ["overlap", "chance"].map((key) => ({
      label: `${pair.first} and ${pair.second}${key === "chance" ? ", chance" : ""}`, color: runColor(i), dash: key === "chance" ? [8, 4] : undefined,
      x: pair.layers.map(({ layer }) => layer), y: pair.layers.map((layer) => layer[key]) }))) },
    { id: "agreement-step", title: `Agreement with ${last.name}`, note: "Mean over the layers; dashed: by chance.", xName: "step", series: rises
      ? [{ label: "agreement", color: "c0", ...points((layer) => layer.overlap) }, { label: "chance", color: "c0", dash: [8, 4], ...points((layer) => layer.chance) }] : [] }]),
    table("Agreement, and by chance", ["", "and", ...layerNames("layer")], pairs.map((pair) => [pair.first, pair.second,
      ...pair.layers.map((layer) => `${fixed(layer.overlap)} (${fixed(layer.chance)})`)]), 2),
    ...analysis.agreement.filter((pair) => pair.reason !== null).map((pair) => element("p", { class: "missing" }, `${pair.first} and ${pair.second} are not compared: ${pair.reason}.`))];
}

// ---- Drops

function dropSection() {
  const dropping = shownTraces().filter((trace) => trace.layers.some((layer) => layer.dropped > 0));
  if (dropping.length === 0) return [element("p", { id: "dropped" }, "None was dropped.")];
  const specs = dropping.flatMap((trace) => [["row", "place in the row"], ["forward", "place in the forward, row after row"]].map(([key, xName]) => ({
    id: `drops-${key}-${trace.id}`, title: named(trace, `Dropped by ${xName}`), note: "Share of the assignments.", xName: `${xName.split(",")[0]}`,
    series: trace.layers.map((layer, i) => ({ label: `layer ${layer.layer}`, color: runColor(i), dash: i < kPalette ? undefined : [4, 3],
      x: layer.drops[key].map(({ first, last }) => (first + last) / 2), y: layer.drops[key].map(({ assigned, dropped }) => (assigned > 0 ? dropped / assigned : null)) })) })));
  return [charts(specs)];
}

// ---- Maps of pairs of experts

const kMapRows = 32;

// A matrix as a map: `shade` makes a colour of a value, `tell` words of a place; `words` is what is read aloud.
function pairMap(title, rows, shade, tell, words, readout) {
  const [height, width] = [rows.length, rows[0].length];
  const canvas = element("canvas", { width, height, role: "img", "aria-label": words });
  canvas.style.height = `${Math.max(96, Math.min(320, 12 * height))}px`;
  canvas.addEventListener("pointermove", (event) => {
    const at = (offset, size, count) => Math.max(0, Math.min(count - 1, Math.floor((offset / size) * count)));
    readout.textContent = `${title}: ${tell(at(event.offsetY, canvas.clientHeight, height), at(event.offsetX, canvas.clientWidth, width))}`;
  });
  plots.push({
    destroy() {},
    resize() {},
    draw() {
      const context = canvas.getContext("2d"), image = context.createImageData(width, height), paint = shade();
      rows.forEach((row, y) => row.forEach((value, x) => image.data.set([...paint(value), 255], 4 * (y * width + x))));
      context.putImageData(image, 0, 0);
    },
  });
  return element("div", { class: "map" }, title, canvas);
}

// A figure of a trace's maps, `maps` [{title, rows, shade, tell, words}], and their tables where they can be read.
function mapFigure(id, name, note, maps) {
  if (maps.length === 0) return null;
  const readout = element("p", { class: "readout" }, "Point at a map for its numbers.");
  return element("figure", { id }, element("figcaption", {}, name, element("small", {}, note)), readout,
    element("div", { class: "maps" }, maps.map(({ title, rows, shade, tell, words }) => pairMap(title, rows, shade, tell, words, readout))),
    opening(`${id}-table`, `Tables of ${name}`, () => element("div", {}, maps.map(({ title, rows }) => table(
      `${name}, ${title}${rows.length > kMapRows ? `, ${kMapRows} of ${rows.length} rows` : ""}`, ["", ...rows[0].map((_, i) => `expert ${i}`)],
      rows.slice(0, kMapRows).map((row, i) => [`expert ${i}`, ...row.map(digits)])))), true));
}

// From blue for -1 by way of the neutral colour for 0 to orange for 1.
function cosineColors() {
  const [low, even, high] = ["heat-low", "heat-even", "heat-high"].map(rgb);
  return (cosine) => (cosine < 0 ? mix(even, low, Math.min(1, -cosine)) : mix(even, high, Math.min(1, cosine)));
}

function redundancySection() {
  const rows = analysis.traces.flatMap((trace) => trace.layers.filter((layer) => layer.redundancy).map(({ layer, redundancy }) => [trace.name, digits(layer),
    digits(redundancy.networks), fixed(redundancy.mean), fixed(redundancy.largest), redundancy.pair.join(" and "), fixed(redundancy.distinct, 2)]));
  if (rows.length === 0) return [element("p", {}, "It was not measured.")];
  return [element("p", {}, "Cosines of what two experts make of the same tokens. Distinct: n² / Σ cos², n where no two are alike and 1 where all are the same."),
    charts([{ id: "distinct", title: "Distinct experts", note: "Of all the networks of a layer.", xName: "layer", series: overLayers("distinct", (layer) => layer.redundancy?.distinct) },
      { id: "alike", title: "Mean cosine of two experts", note: "", xName: "layer", series: overLayers("cosine", (layer) => layer.redundancy?.mean) }]),
    table("How alike experts are", ["", "layer", "networks", "mean cosine", "largest", "of experts", "distinct"], rows),
    element("div", { class: "charts" }, shownTraces().map((trace) => mapFigure(`cosines-${trace.id}`, named(trace, "cosines of the experts"),
      "Blue −1, orange 1.", trace.layers.filter((layer) => layer.redundancy).map(({ layer, redundancy }) => ({
        title: `layer ${layer}`, rows: redundancy.cosine, shade: cosineColors, tell: (i, j) => `networks ${i} and ${j}: ${redundancy.cosine[i][j]}`,
        words: `Layer ${layer}, cosines of ${redundancy.networks} networks, ${fixed(redundancy.mean)} in the mean; the largest, ${fixed(redundancy.largest)}, is of experts ${redundancy.pair.join(" and ")}` })))).filter(Boolean))];
}

function affinitySection() {
  const has = (layer) => layer.affinity !== null;
  if (!analysis.traces.some((trace) => trace.layers.some(has))) return [element("p", {}, "There is one mixture, and none above it.")];
  const shade = (experts) => () => { const colors = heatColors(); return (share) => colors(share, experts); };
  return [element("p", {}, "Of the tokens that took an expert, the share of their experts one mixture further up. Bits: what the expert here tells of the one there."),
    charts([{ id: "affinity", title: "What an expert tells of the next", note: "In bits; dashed: shuffled.", xName: "layer", series: [
      ...overLayers("bits", (layer) => layer.affinity?.information.bits), ...overLayers("shuffled", (layer) => layer.affinity?.information.shuffled, { dash: [8, 4] })] }]),
    heatScale(),
    element("div", { class: "charts" }, shownTraces().map((trace) => mapFigure(`follows-${trace.id}`, named(trace, "who follows whom"),
      "A row for each expert, a column for each of the next mixture's.", trace.layers.filter(has).map(({ layer, affinity }) => {
        const rows = affinity.follows, most = Math.max(...rows.flat()), row = rows.findIndex((shares) => shares.includes(most));
        return { title: `layer ${layer} to ${affinity.next}`, rows, shade: shade(rows[0].length), tell: (i, j) => `${j} after ${i}: ${digits(rows[i][j])}`,
          words: `From layer ${layer} to ${affinity.next}, shares of ${rows[0].length} experts after each of ${rows.length}; the largest is ${digits(most)}, of expert ${rows[row].indexOf(most)} after ${row}` };
      }))).filter(Boolean))];
}

if (several) checkboxes(analysis.traces.map((trace) => ({ key: trace.name, name: trace.name, color: trace.color })));
byId("made").textContent = `Made by smoe ${analysis.smoe} from the routing of the models.`;
showPage(() => [section("Models", modelSection()), section("Tokens and experts", tokenSection()), section("Agreement", agreementSection()),
  section("Dropped assignments", dropSection()), section("Redundancy", redundancySection()), section("Next-layer affinity", affinitySection())]);
