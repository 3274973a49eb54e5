// Engines and their life, refusals and what they mean, totals, GPUs, money.

const WELL = new Set(["ready", "asleep"]);
const BROKEN = new Set(["failed", "backoff", "wedged"]);

function drawEngines(engines) {
  keyed(byId("engines"), engines, ({ name }) => name, makeEngine, drawEngine);
}

function makeEngine() {
  return make(
    "li",
    { class: "engine" },
    make("p", { class: "engine-head" }, make("strong"), make("span", { class: "badge" }), make("span", { class: "engine-what" })),
    make("progress", { max: "1", hidden: true }),
    make("p", { class: "trouble", hidden: true }),
    make("details", { hidden: true }, make("summary", {}, "Its last words"), make("pre", { tabindex: "0" })),
    make("dl", { class: "figures" }),
  );
}

function drawEngine(item, engine) {
  const [head, progress, trouble, words, list] = item.children;
  const [name, badge, what] = head.children;
  say(name, engine.name);
  say(badge, engine.state);
  set(badge, "data-state", WELL.has(engine.state) ? "well" : BROKEN.has(engine.state) ? "broken" : "moving");
  say(what, [engine.kind, ...engine.models].filter(Boolean).join(" · "));

  const share = loadShare(engine);
  const loading = engine.state === "starting" && engine.kind !== "remote";
  show(progress, loading);
  if (loading) {
    const phase = engine.load?.phase || "starting";
    set(progress, "aria-label", `${engine.name} loads`);
    if (share === null) progress.removeAttribute("value");
    else progress.value = share;
    set(progress, "title", phase);
  }
  const why = engine.failure ?? (loading ? null : engine.trouble); // while it loads, nobody expects an answer
  show(trouble, Boolean(why));
  say(trouble, why ?? "");
  const lines = engine.last_lines ?? [];
  if (words.hidden && lines.length) words.open = BROKEN.has(engine.state);
  show(words, lines.length > 0);
  say(words.lastElementChild, lines.join("\n"));
  set(words.lastElementChild, "aria-label", `Last words of ${engine.name}`);

  const starts = Object.values(engine.starts ?? {}).reduce((sum, each) => sum + each, 0);
  figures(list, [
    ["in flight", engine.slots || engine.in_flight ? `${count(engine.in_flight)} of ${count(engine.slots)} slots` : null],
    ["loading", loading ? [engine.load?.phase, engine.load?.fraction == null ? null : percent(engine.load.fraction), engine.eta_s === null ? null : `about ${about(engine.eta_s)} to go`].filter(Boolean).join(", ") || null : null],
    ["KV cache", engine.kv_usage === null || engine.kv_usage === undefined ? null : `${percent(engine.kv_usage)} full`],
    [engine.state, `for ${span(engine.since_s)}`],
    ["process", engine.pid ? String(engine.pid) : null],
    ["restarts", starts > 1 ? `${count(starts - 1)} (${Object.entries(engine.starts).filter(([cause, times]) => cause !== "start" && times).map(([cause, times]) => `${cause} ${times}`).join(", ")})` : null],
    ["last start took", engine.last_wake_s === null ? null : span(engine.last_wake_s)],
  ]);
}

/** How far a start has come: by the time that starts took before, else by the phase it is in. */
function loadShare(engine) {
  if (engine.eta_s !== null && engine.eta_s !== undefined && engine.since_s + engine.eta_s > 0) return engine.since_s / (engine.since_s + engine.eta_s);
  return engine.load?.fraction ?? null;
}

function drawRefusals(refusals) {
  const rows = Object.entries(refusals ?? {}).filter(([, times]) => times > 0).sort(([, one], [, other]) => other - one);
  const most = rows.length ? rows[0][1] : 1;
  show(byId("refusals-none"), !rows.length);
  keyed(
    byId("refusals"),
    rows,
    ([reason]) => reason,
    () => make("li", { class: "refusal" }, make("p", {}, make("strong"), make("code"), make("span", { class: "bar", "aria-hidden": "true" }, make("span"))), make("p", { class: "quiet" })),
    (row, [reason, times]) => {
      const [head, meaning] = row.children;
      const [number, name, bar] = head.children;
      const [status, text] = REASONS[reason] ?? ["", ""];
      say(number, count(times));
      say(name, `${status} ${reason}`.trim());
      bar.firstElementChild.style.setProperty("--share", times / most);
      say(meaning, text);
    },
  );
}

function drawTotals(status) {
  const { generations = {}, tokens = {}, slo, gpu, cost, process } = status;
  const results = slo?.results ?? {};
  const judged = Object.values(results).reduce((sum, each) => sum + each, 0);
  const made = (tokens.completion ?? 0) + (tokens.completion_estimated ?? 0);
  const pairs = [
    ["answered", count(generations.ok ?? 0)],
    ["left by their callers", generations.client_left ? count(generations.client_left) : null],
    ["met the objectives", judged ? percent((results.met ?? 0) / judged) : null],
    ["tokens made", count(made)],
    ["tokens read", count(tokens.prompt ?? 0)],
  ];
  if (cost) {
    const spent = Object.values(cost.dollars).reduce((sum, each) => sum + (each ?? 0), 0);
    pairs.push(["spent", `${dollars(spent)}${cost.dollars.idle ? `, ${dollars(cost.dollars.idle)} of it idle` : ""}`]);
    pairs.push(["a million tokens", cost.dollars_per_million_tokens === null ? null : dollars(cost.dollars_per_million_tokens)]);
  }
  if (gpu?.status === "ok") {
    for (const each of gpu.gpus) {
      const memory = each.memory_total_bytes ? `${bytes(each.memory_used_bytes)} of ${bytes(each.memory_total_bytes)}` : null;
      const facts = [each.utilization === null || each.utilization === undefined ? null : `${percent(each.utilization)} busy`, memory, each.temperature_c == null ? null : `${Math.round(each.temperature_c)} °C`, each.power_w == null ? null : `${Math.round(each.power_w)} W`];
      pairs.push([`GPU ${each.index}`, facts.filter(Boolean).join(", ")]);
    }
  } else if (gpu) pairs.push(["GPU", `not read: ${gpu.reason}`]);
  if (process) {
    const lag = process.loop_lag_s === undefined ? "" : `, its loop ${span(process.loop_lag_s)} late at worst`;
    pairs.push(["the gateway itself", `${span(process.cpu_s)} of CPU, ${bytes(process.resident_bytes)}${lag}`]);
  }
  figures(byId("totals"), pairs);
}
