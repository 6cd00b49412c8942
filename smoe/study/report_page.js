// The page: what it shows of the runs, and its settings.

const report = JSON.parse(byId("data").textContent);
const several = report.runs.length > 1;
report.runs.forEach((run, i) => { run.color = runColor(i); });

const kValidDashes = [[8, 4], [2, 3]], kAveragedDashes = [[12, 2, 2, 2], [6, 2, 2, 2]];
const named = (run, what) => (several ? `${run.name}: ${what}` : what);
const shownRuns = () => report.runs.filter((run) => !state.hidden.includes(run.path));
const experts = (run) => Number(run.recipe.find(([key]) => key === "moe.experts")?.[1]);
const isMixture = (run) => run.training.layers.length > 0;
const hasK = (run) => run.training.k.some(isNumber);
const command = (text) => element("code", {}, text);
const quoted = (path) => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`);

// The x of a run's training lines, as the setting wants it; of lines that have steps only, the tokens that belong to them.
function xOf(run, steps) {
  if (state.axis === "step" || run.step === 0) return steps;
  const perStep = run.training.tokens[run.training.tokens.length - 1] / run.step;
  return steps.map((step) => Math.round(step * perStep));
}

function trainingSeries(key, what) {
  return shownRuns().filter((run) => run.training[key].some(isNumber)).map((run) => (
    { label: named(run, what), color: run.color, x: xOf(run, run.training.step), y: run.training[key] }));
}

function lossSeries() {
  return shownRuns().flatMap((run) => [
    { label: named(run, "training"), color: run.color, x: xOf(run, run.training.step), y: run.training[state.unit], thin: true },
    ...[false, true].flatMap((averaged) => run.valid.filter((valid) => valid.averaged === averaged).map((valid, i) => ({
      label: named(run, `valid${averaged ? ", averaged weights" : ""}${valid.k === null ? "" : `, k = ${valid.k}`}`), color: run.color,
      x: xOf(run, valid.step), y: state.unit === "bpc" ? valid.bpc : valid.nll,
      dash: (averaged ? kAveragedDashes : kValidDashes)[Math.min(i, 1)] }))),
  ]);
}

function trainingSection() {
  const charts = [
    ["loss", state.unit === "bpc" ? "Bits per token" : "Loss in nats", "Training: mean since the line before. Drag to zoom, double-click to go back.", lossSeries()],
    ["k", "Active experts k", "What the k schedule gave.", trainingSeries("k", "k").map((series) => ({ ...series, stairs: true }))],
    ["grad-norm", "Gradient norm", "Before clipping.", trainingSeries("grad_norm", "gradient norm")],
    ["lr", "Learning rate", "", trainingSeries("lr", "learning rate")],
    ["throughput", "Tokens per second", "Of the training, since the line before.", shownRuns().filter((run) => run.timing.step.length > 0).map(
      (run) => ({ label: named(run, "tokens/s"), color: run.color, x: xOf(run, run.timing.step), y: run.timing.tokens_per_second }))],
  ];
  const drawn = charts.filter(([, , , series]) => series.some(({ x }) => x.length > 0)).map(([id, title, note, series]) => (
    lineChart({ id, title, note, xName: state.axis === "step" ? "step" : "tokens", series })));
  const notes = shownRuns().map((run) => (run.lines === 0
    ? element("p", { class: "missing" }, `${run.name} has logged nothing yet.`)
    : run.shown < run.lines ? element("p", {}, `${run.name}: ${run.shown} of ${run.lines} logged lines are drawn, every peak among them.`) : null));
  const frozen = shownRuns().map((run) => [run, Object.entries(run.frozen).sort((a, b) => a[1] - b[1])]).filter(([, parts]) => parts.length > 0).map(([run, parts]) => (
    element("p", { class: "frozen" }, `${run.name}: ${parts.map(([part, step]) => `${part} frozen from step ${step}`).join(", ")}.`)));
  return [notes, frozen, element("div", { class: "charts" }, drawn)];
}

// ---- What each k is worth

// The latest evaluation, a row for each k: of several the one over the most tokens.
function kCurve(run) {
  const subject = run.evaluations[run.evaluations.length - 1];
  if (!subject) return [];
  const best = new Map();
  for (const row of subject.rows) {
    const value = row.k ?? row.setting;
    if (!best.has(value) || best.get(value).tokens <= row.tokens) best.set(value, row);
  }
  return [...best.values()];
}

function kSeries(y, x = "k") {
  const ks = shownRuns().flatMap(kCurve).map((row) => row.k).filter(isNumber);
  const [lowest, highest] = [Math.min(...ks), Math.max(...ks)];
  return shownRuns().map((run) => [run, kCurve(run).filter((row) => isNumber(row[y]))]).filter(([, rows]) => rows.length > 0).flatMap(([run, rows]) => {
    if (rows[0].k !== null || x !== "k") {
      const sorted = [...rows].sort((a, b) => a[x] - b[x]);
      return [{ label: named(run, "every k"), color: run.color, x: sorted.map((row) => row[x]), y: sorted.map((row) => row[y]) }];
    }
    // A dense model has no k, and other dials are no k: one value, drawn as a line to compare with.
    return ks.length === 0 ? [] : [{ label: named(run, rows[0].setting || "dense"), color: run.color, dash: [8, 4], flat: true,
      x: lowest < highest ? [lowest, highest] : [lowest], y: lowest < highest ? [rows[0][y], rows[0][y]] : [rows[0][y]] }];
  });
}

function evaluationTable() {
  const rows = report.runs.flatMap((run) => run.evaluations.flatMap((evaluation) => evaluation.rows.map((row) => [
    run.name, evaluation.checkpoint, evaluation.split, evaluation.data.sha256.slice(0, 8), String(row.k ?? (row.setting || "dense")), digits(row.bpc),
    digits(row.nll), short(row.active_parameters), short(row.flops_per_token), digits(Math.round(row.tokens_per_second)),
    digits(row.tokens), digits(evaluation.threads)])));
  return rows.length === 0 ? null : opening("evaluations", "Table of all evaluations", () => table("Evaluations", ["run", "checkpoint", "split", "text",
    "k", "bpc", "nll", "active parameters", "FLOPs/token", "tokens/s", "tokens", "threads"], rows, 4), true);
}

function evaluationNotes() {
  const notes = shownRuns().map((run) => {
    const curve = kCurve(run);
    if (curve.length === 0) {
      const dial = hasK(run) ? " --k all" : "";
      return element("p", { class: "missing" }, `${run.name} is not evaluated yet: `, command(`smoe eval ${quoted(run.path)}${dial}`));
    }
    const { checkpoint, split, data } = run.evaluations[run.evaluations.length - 1];
    const only = hasK(run) && curve.length === 1 ? [" There is one k; for the others: ", command(`smoe eval ${quoted(run.path)} --k all`)] : [];
    return element("p", {}, `${run.name}: ${checkpoint} on ${split} of ${data.path}, ${curve[curve.length - 1].tokens} tokens.`, ...only);
  });
  const subjects = new Set(shownRuns().filter((run) => run.evaluations.length > 0).map((run) => {
    const { split, data } = run.evaluations[run.evaluations.length - 1];
    return `${split} ${data.sha256} ${[...new Set(kCurve(run).map((row) => row.tokens))]}`;
  }));
  if (subjects.size > 1) notes.push(element("p", { class: "missing" }, "The runs were evaluated on different texts or numbers of tokens: their values do not compare."));
  return notes;
}

function curveSection() {
  const charts = [
    { id: "k-bpc", title: "Bits per token at each k", xName: "k", series: kSeries("bpc") },
    { id: "k-flops", title: "Bits per token for the compute spent", xName: "FLOPs per token", series: kSeries("bpc", "flops_per_token") },
    { id: "k-speed", title: "Tokens per second at each k", note: "Of the evaluation, measured once.", xName: "k", series: kSeries("tokens_per_second") },
  ];
  return [evaluationNotes(), element("div", { class: "charts" }, charts.filter((chart) => chart.series.length > 0).map(lineChart)), evaluationTable()];
}

// ---- Routing

function layerCharts(key, title, note) {
  return shownRuns().filter(isMixture).map((run) => lineChart({
    id: `${key}-${report.runs.indexOf(run)}`, title: named(run, title), note: note(run), xName: state.axis === "step" ? "step" : "tokens",
    series: run.training.layers.map((layer, i) => ({ label: `layer ${i}`, color: runColor(i), dash: i < kPalette ? undefined : [4, 3],
      x: xOf(run, run.training.step), y: layer[key] })),
  }));
}

function routingSection() {
  const mixtures = shownRuns().filter(isMixture);
  if (mixtures.length === 0) return [element("p", {}, "No run here has mixtures of experts.")];
  const dropped = mixtures.filter((run) => run.training.layers.some((layer) => layer.dropped.some((share) => share > 0)));
  return [
    element("h3", {}, "Expert load"), heatScale(), element("div", { class: "charts" }, mixtures.map((run) => heatFigure(`load-${report.runs.indexOf(run)}`, run))),
    element("h3", {}, "Router entropy"), element("div", { class: "charts" },
      layerCharts("entropy", "Entropy of the router's probabilities", (run) => `In nats; all ${experts(run)} experts alike would be ${digits(Math.log(experts(run)))}.`)),
    element("h3", {}, "Dropped assignments"),
    dropped.length === 0 ? element("p", { id: "dropped" }, "None was dropped.")
      : element("div", { class: "charts" }, layerCharts("dropped", "Share of assignments over capacity", () => "")),
  ];
}

// ---- Tables of words

function summaryTable() {
  const stateOf = (run) => (run.finished ? "finished" : `step ${run.step} of ${run.planned_steps}`);
  const bits = (entry) => (entry && isNumber(entry.nll) ? digits(entry.nll / Math.LN2) : "–");
  const lastOf = (values) => (values.length > 0 ? values[values.length - 1] : null);
  return table("Runs", ["run", "state", "text", "steps", "tokens", "training bpc, last", "best valid bpc, all experts", "best valid bpc, small k"],
    report.runs.map((run) => [run.name, stateOf(run), run.environment?.data?.sha256?.slice(0, 8) ?? "–", digits(run.step),
      digits(lastOf(run.training.tokens)), digits(lastOf(run.training.bpc)), bits(run.checkpoints.best_full), bits(run.checkpoints.best_small)]), 3);
}

function flatten(value, prefix = "") {
  if (value === null || typeof value !== "object") return [[prefix, String(value)]];
  return Object.entries(value).flatMap(([key, inner]) => flatten(inner, prefix === "" ? key : `${prefix}.${key}`));
}

function recipeSection() {
  const differences = !several ? null : report.differences.length === 0 ? element("p", {}, "The recipes are the same.")
    : table("Where the recipes differ", ["setting", ...report.runs.map((run) => run.name)],
      report.differences.map(([key, values]) => [key, ...values.map((value) => value ?? "–")]), report.runs.length + 1);
  const runs = report.runs.map((run, i) => [
    element("h3", {}, run.name), element("p", {}, "Folder ", command(run.path)),
    ...Object.entries(run.checkpoints).map(([role, entry]) => element("p", {}, `Checkpoint ${role}: `, entry === null ? "none yet" : command(entry.name))),
    opening(`recipe-${i}`, "Resolved recipe", () => table(`Recipe of ${run.name}`, ["setting", "value"], run.recipe, 2), true),
    opening(`environment-${i}`, "Environment and checksums", () => table(`Environment of ${run.name}`, ["what", "value"], flatten(run.environment), 2), true),
  ]);
  return [differences, ...runs];
}

// ---- Putting it together

function content() {
  return [
    section("Runs", [summaryTable()]), section("Training", trainingSection()), section("What each k is worth", curveSection()),
    section("Routing", routingSection()), section("Recipes and environment", recipeSection())];
}

choices(["axis", "unit"]);
if (several) checkboxes(report.runs.map((run) => ({ key: run.path, name: run.name, color: run.color })));

const refresh = Number(document.body.dataset.refresh);
if (refresh > 0) {
  byId("follow-label").hidden = false;
  byId("follow-text").textContent = `Follow the training: load this page again every ${refresh} s`;
  byId("follow").checked = state.follow;
  byId("follow").addEventListener("change", (event) => { state.follow = event.target.checked; });
  setInterval(() => { if (state.follow && !document.hidden) location.reload(); }, refresh * 1000);
}

byId("made").textContent = `Made by smoe ${report.smoe} from the files of the runs.`;
showPage(content);
