// The page of a comparison: entries over their seeds.

const comparison = JSON.parse(byId("data").textContent);
const entries = [...new Set(comparison.summary.map((row) => row.router))].map((name, i) => ({ name, color: runColor(i), dash: i < kPalette ? undefined : [6, 4],
  rows: comparison.summary.filter((row) => row.router === name) }));
const measured = (entry) => entry.rows.filter((row) => row.bpc_mean !== null);
const shownEntries = () => entries.filter((entry) => !state.hidden.includes(entry.name));
const dialOf = (row) => (row.value === null ? "–" : `${row.dial} = ${digits(row.value)}`);
const percent = (share) => (share === null ? "–" : `${digits(Number((100 * share).toPrecision(3)))} %`);
const fixed = (value) => (value === null ? "–" : value.toFixed(4));

// "1.0234 ± 0.0012"; a tilde where the seeds spread further than it is from the row above.
function bits(row, marked) {
  if (row.bpc_mean === null) return "–";
  return `${fixed(row.bpc_mean)}${row.bpc_sd === null ? "" : ` ± ${fixed(row.bpc_sd)}`}${marked && row.differs_from_row_above === false ? " ~" : ""}`;
}

const kHead = ["dial", "bpc", "seeds", "active experts", "FLOPs/token", "active parameters", "parameters", "training tokens/s", "largest load / mean", "entropy, nats", "dropped"];
const cells = (row, marked) => [dialOf(row), bits(row, marked), digits(row.seeds), digits(Number(row.mean_active_experts.toPrecision(4))),
  short(row.flops_per_token), short(row.active_parameters), short(row.parameters), digits(Math.round(row.tokens_per_second)),
  row.load_max_over_mean === null ? "–" : short(row.load_max_over_mean), row.entropy === null ? "–" : short(row.entropy), percent(row.dropped)];

function resultSection() {
  if (entries.length === 0) return [element("p", { class: "missing" }, "No run has come through yet.")];
  // An entry's first row is its best: the rows come in the order of their bpc.
  const seen = new Set();
  const best = comparison.summary.filter((row) => !seen.has(row.router) && seen.add(row.router));
  const spreads = (a, b) => Math.max(a.bpc_sd ?? 0, b.bpc_sd ?? 0);
  const rows = best.map((row, i) => {
    const above = best[i - 1], known = above && row.bpc_mean !== null && above.bpc_mean !== null && (row.bpc_sd !== null || above.bpc_sd !== null);
    const marked = { ...row, differs_from_row_above: known ? row.bpc_mean - above.bpc_mean > spreads(row, above) : null };
    return [row.router, row.summary || "–", ...cells(marked, true)];
  });
  return [element("p", {}, `Each at its best setting of the dial, on ${comparison.split} of ${comparison.data.path} (SHA-256 ${comparison.data.sha256.slice(0, 8)}…).`),
    table("Results, the lowest bpc first", ["", "what it is", ...kHead], rows, 3),
    element("p", {}, "± is the standard deviation over seeds. ~ marks a row that is no further from the one above it than the seeds of either spread.")];
}

// What an entry without a dial and without experts has is one value, drawn as a line to compare with.
const isFlat = (entry, x) => x === "mean_active_experts" && entry.rows.length === 1 && entry.rows[0].bpc_mean !== null && entry.rows[0][x] === 0;

function series(x) {
  const places = shownEntries().filter((entry) => !isFlat(entry, x)).flatMap((entry) => measured(entry).map((row) => row[x]));
  const ends = [...new Set([Math.min(...places), Math.max(...places)])];
  return shownEntries().flatMap((entry) => {
    if (isFlat(entry, x)) {
      return places.length === 0 ? [] : [{ label: entry.name, color: entry.color, dash: [8, 4], flat: true, x: ends, y: ends.map(() => entry.rows[0].bpc_mean) }];
    }
    // Of settings that cost the same the better one; an x stands once.
    const rows = measured(entry).sort((a, b) => a[x] - b[x] || a.bpc_mean - b.bpc_mean).filter((row, i, all) => i === 0 || row[x] > all[i - 1][x]);
    return rows.length === 0 ? [] : [{ label: entry.name, color: entry.color, dash: entry.dash, x: rows.map((row) => row[x]), y: rows.map((row) => row.bpc_mean),
              error: rows.map((row) => row.bpc_sd) }];
  });
}

function curveSection() {
  const charts = [
    { id: "bpc-active", title: "Bits per token over active experts", note: "Mean over seeds; the bars are one standard deviation.",
      xName: "mean active experts", series: series("mean_active_experts") },
    { id: "bpc-flops", title: "Bits per token for the compute spent", xName: "FLOPs per token", series: series("flops_per_token") },
  ];
  return [element("div", { class: "charts" }, charts.filter((chart) => chart.series.length > 0).map(lineChart)),
    opening("every-value", "Table of every setting of the dials", () => table("Every setting, the lowest bpc first", ["", ...kHead],
      comparison.summary.map((row) => [row.router, ...cells(row, true)]), 2), true)];
}

// ---- Routing

const hasRouting = (run) => run.routing.load.length > 0;
const runName = (run) => `${run.router}, seed ${run.seed}`;
// Of each entry the first run; the others' pages have theirs.
const firstRuns = () => shownEntries().map((entry) => comparison.runs.find((run) => run.router === entry.name)).filter((run) => run && hasRouting(run));

function routingSection() {
  const runs = firstRuns(), place = (run) => comparison.runs.indexOf(run);
  if (runs.length === 0) return [element("p", {}, "No run here has mixtures of experts.")];
  return [element("p", {}, "Of the first seed of each entry, over its training."),
    element("h3", {}, "Expert load"), heatScale(), element("div", { class: "charts" }, runs.map((run) => heatFigure(`load-${place(run)}`,
      { name: runName(run), load: { step: run.routing.step, layers: run.routing.load } }))),
    element("h3", {}, "Router entropy"), element("div", { class: "charts" }, runs.map((run) => lineChart({
      id: `entropy-${place(run)}`, title: `${runName(run)}: entropy of the router's probabilities`, xName: "step",
      note: `In nats; all ${run.routing.load[0][0].length} experts alike would be ${digits(Math.log(run.routing.load[0][0].length))}.`,
      series: run.routing.entropy.map((entropy, layer) => ({ label: `layer ${layer}`, color: runColor(layer), dash: layer < kPalette ? undefined : [4, 3],
        x: run.routing.step, y: entropy })) })))];
}

function runSection() {
  const rows = comparison.runs.flatMap((run) => run.results.map((result) => [run.router, digits(run.seed), dialOf(result), fixed(result.bpc),
    digits(Number(result.mean_active_experts.toPrecision(4))), digits(run.tokens), digits(Math.round(run.tokens_per_second)), run.run]));
  return [opening("every-run", "Table of every run", () => table("Every run", ["", "seed", "dial", "bpc", "active experts", "training tokens", "training tokens/s", "folder"],
    rows, 3), true), element("p", {}, "A run's own page: ", element("code", {}, "smoe report FOLDER")),
    ...comparison.runs.flatMap((run) => run.results.filter((result) => result.bpc === null).map((result) => (
      element("p", { class: "missing" }, `${run.run} has no bpc at ${dialOf(result)}: its loss is not finite.`)))),
    ...comparison.failed.map((run) => element("p", { class: "missing" }, `${run.run} failed: ${run.reason}`))];
}

if (entries.length > 1) checkboxes(entries.map((entry) => ({ key: entry.name, name: entry.name, color: entry.color })));
byId("made").textContent = `Made by smoe ${comparison.smoe} from the files of the runs.`;
showPage(() => [section("Results", resultSection()), section("Over the dial", curveSection()), section("Routing", routingSection()), section("Runs", runSection())]);
