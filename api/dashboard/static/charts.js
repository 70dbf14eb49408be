// The charts of a job's page. Points come with the page's stream of server-sent events, the past ones first,
// as `points`: [{phase, step, <name>: value, …}, …]. Without any there are no charts.

const LOSSES = ["loss", "mle", "sm", "tmkd", "kd"];
const VALIDATION = "validation_";
const COLOURS = ["--accent", "--warm", "--bad", "--good", "--soft"];

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

const phases = new Map(); // phase -> step -> {name: value}
const charts = {};
let chosen = null; // the phase that the reader chose; null: the newest
let drawing = 0;

const element = (id) => document.getElementById(id);
// `light-dark()` has to be resolved by the browser before a canvas can use it.
function resolved(name) {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(${name})`;
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function add(points) {
  for (const { phase, step, ...values } of points) {
    if (!phases.has(phase)) phases.set(phase, new Map());
    const steps = phases.get(phase);
    steps.set(step, { ...steps.get(step), ...values });
  }
  drawing ||= requestAnimationFrame(draw);
}

function draw() {
  drawing = 0;
  const trained = [...phases.keys()].filter((phase) => phases.get(phase).size > 1);
  if (!trained.length) return;
  element("charts").hidden = false;
  choose(trained);
  const phase = element("phase").value;
  const steps = [...phases.get(phase)].sort(([one], [other]) => one - other);
  const names = new Set(steps.flatMap(([, values]) => Object.keys(values)));
  const terms = LOSSES.filter((name) => names.has(name));
  plot("loss-chart", steps, terms.length === 2 ? ["loss"] : terms); // a single term is the loss itself
  const chooses = VALIDATION + element("facts").dataset.metric; // of all metrics, the one that counts
  const shown = [...names].filter((name) => name.startsWith(VALIDATION) && name !== VALIDATION + "loss");
  shown.sort((one, other) => (other === chooses) - (one === chooses));
  element("score-chart").parentElement.hidden = !shown.length; // before the first evaluation
  if (shown.length) plot("score-chart", steps, shown, phase === "teach" ? null : teachers(chooses));
}

// The teacher's best validation score, which the student's are to be compared with.
function teachers(name) {
  const scores = [...(phases.get("teach")?.values() ?? [])].map((values) => values[name] ?? null);
  const known = scores.filter((score) => score !== null);
  if (!known.length) return null;
  return name === VALIDATION + "rmse" ? Math.min(...known) : Math.max(...known);
}

function choose(trained) {
  const select = element("phase");
  for (const phase of trained) {
    if (![...select.options].some((option) => option.value === phase)) select.add(new Option(phase));
  }
  const newest = trained.includes("distil") ? "distil" : trained.at(-1);
  select.value = chosen ?? newest;
}

function plot(id, steps, names, teacher = null) {
  const data = [steps.map(([step]) => step), ...names.map((name) => steps.map(([, values]) => values[name] ?? null))];
  if (teacher !== null) data.push(steps.map(() => teacher));
  const labels = [...names.map((name) => name.replace(VALIDATION, "").replaceAll("_", " ")), ...(teacher === null ? [] : ["teacher"])];
  const key = labels.join();
  if (charts[id]?.key !== key) {
    charts[id]?.chart.destroy();
    const into = element(id);
    charts[id] = { key, chart: new uPlot(options(into, labels, teacher !== null), data, into) };
  } else {
    charts[id].chart.setData(data);
  }
}

function options(into, labels, hasTeacher) {
  const soft = resolved("--soft"), line = resolved("--line");
  const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
  const series = labels.map((label, number) => ({
    label,
    stroke: resolved(COLOURS[number % COLOURS.length]),
    width: number ? 1.5 : 2,
    spanGaps: true,
    points: { show: into.id === "score-chart" },
  }));
  if (hasTeacher) Object.assign(series.at(-1), { stroke: resolved("--ink"), dash: [6, 5], points: { show: false } });
  return {
    width: into.clientWidth,
    height: 240,
    scales: { x: { time: false } },
    axes: [axis, { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => COMPACT.format(tick)) }],
    series: [{ label: "step" }, ...series],
    cursor: { drag: { x: true, y: false } },
  };
}

function redraw() {
  for (const id of Object.keys(charts)) {
    charts[id].chart.destroy();
    delete charts[id];
  }
  if (phases.size) draw();
}

element("live").addEventListener("points", (event) => add(JSON.parse(event.detail.data)));
element("phase").addEventListener("change", (event) => { chosen = event.target.value; draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(() => {
  for (const id of Object.keys(charts)) {
    const width = element(id).clientWidth;
    if (width) charts[id].chart.setSize({ width, height: 240 });
  }
}).observe(element("charts"));
