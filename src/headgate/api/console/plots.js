// Four small plots of the last five minutes, drawn by hand. Time is x, with holes where there was nothing to measure.

const MINUTES = [1, 2, 5]; // the least that holds all that is known
const WIDE = 300;
const HIGH = 72;

const PLOTS = [
  {
    id: "gate",
    title: "Slots and line",
    unit: count,
    series: [
      { name: "max_active", label: "slots", look: "limit" },
      { name: "active", label: "held", look: "area" },
      { name: "queue", label: "waiting", look: "warn" },
    ],
    now: (last) => `${count(last.active)} held, ${count(last.queue)} wait`,
  },
  {
    id: "ttft",
    title: "Time to first token",
    unit: span,
    axis: mark,
    series: [
      { name: "ttft_p95_s", label: "p95", look: "line" },
      { name: "ttft_p50_s", label: "p50", look: "thin" },
    ],
    now: (last) => (last.ttft_p95_s === null ? "no tokens of late" : `p50 ${span(last.ttft_p50_s)}, p95 ${span(last.ttft_p95_s)}`),
    objective: (status) => status.slo?.ttft_s,
  },
  {
    id: "tokens",
    title: "Tokens a second",
    unit: count,
    series: [{ name: "tokens_per_s", label: "tokens/s", look: "area" }],
    now: (last) => `${count(last.tokens_per_s)}/s`,
  },
  {
    id: "requests",
    title: "Requests a second",
    unit: count,
    series: [
      { name: "requests_per_s", label: "ended", look: "line" },
      { name: "refused_per_s", label: "refused", look: "stop" },
    ],
    now: (last) => `${count(last.requests_per_s)}/s ended, ${count(last.refused_per_s)}/s refused`,
  },
];

/** Points by name, as `recent` has them; one more each second. */
class Memory {
  constructor() {
    this.columns = {};
  }

  fill(recent) {
    this.columns = { ...recent };
    delete this.columns.step_s;
  }

  add(point) {
    const times = (this.columns.t ??= []);
    if (times.length && point.t <= times[times.length - 1]) return;
    for (const [name, value] of Object.entries(point)) {
      const column = (this.columns[name] ??= []);
      column.push(value);
      if (column.length > 300) column.shift();
    }
  }

  get last() {
    const at = (this.columns.t ?? []).length - 1;
    if (at < 0) return null;
    return Object.fromEntries(Object.entries(this.columns).map(([name, column]) => [name, column[at]]));
  }
}

function makePlot(plot) {
  plot.svg = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", focusable: "false" });
  plot.grid = svg("path", { class: "grid", d: `M0 ${HIGH / 2}H${WIDE}M0 .5H${WIDE}` });
  plot.floor = svg("path", { class: "floor", d: `M0 ${HIGH}H${WIDE}` });
  plot.aim = svg("path", { class: "aim" });
  plot.paths = plot.series.map(({ look }) => svg("path", { class: `series ${look}` }));
  plot.cursor = svg("path", { class: "cursor" });
  plot.svg.append(plot.grid, ...plot.paths, plot.aim, plot.floor, plot.cursor);
  plot.top = make("span", { class: "tick top" });
  plot.middle = make("span", { class: "tick middle" });
  plot.aimText = make("span", { class: "tick aim-text" });
  plot.value = make("p", { class: "now" });
  const legend = make(
    "p",
    { class: "legend", "aria-hidden": "true" },
    ...plot.series.map(({ label, look }) => make("span", { class: `name ${look}` }, label)),
  );
  const box = make("div", { class: "box" }, plot.svg, plot.top, plot.middle, plot.aimText);
  box.addEventListener("pointermove", (event) => {
    const { left, width } = plot.svg.getBoundingClientRect();
    plot.pointed = Math.min(Math.max((event.clientX - left) / width, 0), 1);
    drawPlot(plot);
  });
  box.addEventListener("pointerleave", () => {
    plot.pointed = null;
    drawPlot(plot);
  });
  plot.start = make("span");
  const times = make("p", { class: "times", "aria-hidden": "true" }, plot.start, make("span", {}, "now"));
  return make("figure", { class: "plot", id: `plot-${plot.id}` }, make("figcaption", {}, plot.title), plot.value, box, times, legend);
}

function drawPlots(memory, status, speak) {
  if (!byId("plots").firstElementChild) byId("plots").append(...PLOTS.map(makePlot));
  for (const plot of PLOTS) {
    plot.columns = memory.columns;
    plot.last = memory.last;
    plot.aimAt = plot.objective?.(status) ?? null;
    drawPlot(plot);
    if (speak) set(plot.svg, "aria-label", summary(plot));
  }
}

function drawPlot(plot) {
  const times = plot.columns.t ?? [];
  const now = times[times.length - 1] ?? 0;
  const minutes = MINUTES.find((each) => now - (times[0] ?? 0) <= each * 60) ?? MINUTES[MINUTES.length - 1];
  const columns = plot.series.map(({ name }) => plot.columns[name] ?? []);
  const highest = Math.max(0, ...columns.flat().filter((value) => value !== null));
  // An objective far above what is would press everything to the floor; then it is only named.
  const inReach = plot.aimAt !== null && plot.aimAt <= 4 * highest;
  const top = ceiling(Math.max(highest, inReach ? plot.aimAt : 0));
  const x = (time) => WIDE - ((now - time) / (minutes * 60)) * WIDE;
  const y = (value) => HIGH - (Math.min(value, top) / top) * (HIGH - 1);
  plot.series.forEach(({ look }, at) => set(plot.paths[at], "d", path(times, columns[at], x, y, look === "area")));
  set(plot.aim, "d", inReach ? `M0 ${y(plot.aimAt).toFixed(1)}H${WIDE}` : "");
  const axis = plot.axis ?? plot.unit;
  say(plot.start, `${minutes} min ago`);
  say(plot.top, axis(top));
  say(plot.middle, axis(top / 2));
  say(plot.aimText, plot.aimAt === null ? "" : `objective ${axis(plot.aimAt)}${inReach || !highest ? "" : ", far above"}`);
  plot.aimText.style.setProperty("--at", inReach ? `${(y(plot.aimAt) / HIGH) * 100}%` : "0%");
  set(plot.aimText, "class", `tick aim-text${!inReach || y(plot.aimAt) < HIGH / 4 ? " below" : ""}`);
  const at = plot.pointed === null || plot.pointed === undefined ? -1 : nearest(times, now - (1 - plot.pointed) * minutes * 60);
  set(plot.cursor, "d", at < 0 ? "" : `M${x(times[at]).toFixed(1)} 0V${HIGH}`);
  if (at >= 0) {
    const told = plot.series.map(({ name, label }) => `${label} ${plot.unit(plot.columns[name][at])}`);
    say(plot.value, `${span(now - times[at])} ago: ${told.join(", ")}`);
  } else say(plot.value, plot.last ? plot.now(plot.last) : "–");
}

function nearest(times, time) {
  let best = -1;
  times.forEach((each, at) => {
    if (best < 0 || Math.abs(each - time) < Math.abs(times[best] - time)) best = at;
  });
  return best >= 0 && Math.abs(times[best] - time) < 5 ? best : -1;
}

/** A line through what is known; an area is closed down to the floor. A lone point is a short dash. */
function path(times, values, x, y, isArea) {
  const runs = [];
  let run = null;
  times.forEach((time, at) => {
    const value = values[at];
    if (value === null || value === undefined) run = null;
    else {
      if (!run || time - run[run.length - 1][0] > 5) runs.push((run = []));
      run.push([time, value]);
    }
  });
  return runs
    .map((points) => {
      const steps = points.map(([time, value]) => `${x(time).toFixed(1)} ${y(value).toFixed(1)}`);
      if (steps.length === 1) steps.push(`${(x(points[0][0]) + 1).toFixed(1)} ${y(points[0][1]).toFixed(1)}`);
      const line = `M${steps.join("L")}`;
      return isArea ? `${line}V${HIGH}H${x(points[0][0]).toFixed(1)}Z` : line;
    })
    .join("");
}

function summary(plot) {
  if (!plot.last) return `${plot.title}: nothing measured yet.`;
  const parts = plot.series.map(({ name, label }) => {
    const known = (plot.columns[name] ?? []).filter((value) => value !== null);
    return known.length ? `${label} ${plot.unit(Math.min(...known))} to ${plot.unit(Math.max(...known))}` : `${label} not measured`;
  });
  const aim = plot.aimAt === null ? "" : ` The objective is ${plot.unit(plot.aimAt)}.`;
  return `${plot.title}, the last five minutes: ${parts.join("; ")}. Now ${plot.now(plot.last)}.${aim}`;
}
