// The connection to the gateway, and what is drawn of each picture that comes.

const SILENT_S = 5; // a picture comes each second
const REFUSED_S = 5; // so many may watch: who finds no room tries again in so long, and sees one picture then
const HIDDEN_S = 60; // a tab that nobody sees needs no connection: a browser has six for a host
const memory = new Memory();
const live = { source: null, streamed: false, heardAt: 0, status: null, tries: 0, timer: 0, spokenAt: -1e9, spokenKind: "", spokenText: "", drawn: 0 };

function connect() {
  clearTimeout(live.timer);
  live.source?.close();
  live.heardAt = performance.now();
  const source = new EventSource("/status/events");
  live.source = source;
  live.streamed = false;
  source.addEventListener("open", () => (live.streamed = true));
  source.addEventListener("status", (event) => heard(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    if (live.source === source) ask();
  });
}

/** The stream has ended or never began: ask for one picture, which tells why; and again until there is a stream. */
async function ask() {
  live.source?.close();
  live.source = null;
  clearTimeout(live.timer);
  if (document.hidden) return;
  try {
    const answer = await fetch("/status?recent=1", { cache: "no-store", signal: AbortSignal.timeout(SILENT_S * 1e3) });
    if (answer.status === 401) return lost("This gateway wants its key. Reload the page to give it.", false);
    if (!answer.ok) return lost(`The gateway answers ${answer.status}.`, true);
    const status = await answer.json();
    heard(status);
    live.tries = 0;
    if (status.reason === "draining") live.timer = setTimeout(ask, 1e3);
    else live.timer = setTimeout(connect, live.streamed ? 250 : REFUSED_S * 1e3);
  } catch {
    lost("The gateway does not answer.", true);
  }
  return undefined;
}

function lost(why, again) {
  live.tries += 1;
  const wait_s = Math.min(live.tries, 5);
  const ago = live.status ? ` Below is how it was ${span((performance.now() - live.heardAt) / 1e3)} ago.` : "";
  set(document.body, "data-kind", "lost");
  set(byId("link"), "data-link", "lost");
  say(byId("link-text"), again ? "reconnecting" : "closed");
  say(byId("says"), `${why}${ago}`);
  say(byId("advice"), again ? "It is asked again every few seconds; when it is back, this page is, too." : "");
  document.title = "no answer · Headgate";
  speak("lost", why);
  if (again) live.timer = setTimeout(ask, wait_s * 1e3);
}

function heard(status) {
  live.heardAt = performance.now();
  live.status = status;
  live.tries = 0;
  if (status.recent) memory.fill(status.recent);
  if (status.point) memory.add(status.point);
  const { active, max_active: slots } = status.slots;
  const { depth } = status.queue;
  document.title = `${active}/${slots}${depth ? ` · ${depth} wait` : ""} · Headgate`;
  if (!document.hidden) draw(status);
}

function draw(status) {
  const { kind, says, advice } = status.standing;
  set(document.body, "data-kind", kind);
  set(byId("link"), "data-link", status.reason === "draining" ? "draining" : "live");
  say(byId("link-text"), status.reason === "draining" ? "draining" : "live");
  say(byId("says"), unbroken(says));
  say(byId("advice"), unbroken(advice || quietly(kind, memory.last)));
  speak(kind, says);
  const models = [...new Set(status.engines.flatMap((engine) => engine.models))];
  say(byId("facts"), [models.length > 2 ? many(models.length, "model", "models") : models.join(", "), `up ${span(status.uptime_s)}`].filter(Boolean).join(" · "));
  drawGate(status);
  drawPlots(memory, status, live.drawn % 5 === 0);
  drawEngines(status.engines);
  drawRefusals(status.refusals);
  drawTotals(status);
  drawBox(status);
  const own = document.documentElement.dataset.version;
  say(byId("foot-version"), own === status.version ? `Headgate ${own}` : `The gateway is now ${status.version}; this page is of ${own}. Reload it.`);
  live.drawn += 1;
}

/** Where there is nothing to do, how well it goes. */
function quietly(kind, last) {
  if (kind === "idle") return "Send it something below, or point a client at it.";
  if (!["serving", "busy"].includes(kind) || !last) return "";
  const firsts = last.ttft_p50_s === null ? "" : `, first tokens after ${span(last.ttft_p50_s)} (p50) to ${span(last.ttft_p95_s)} (p95)`;
  return `${count(last.tokens_per_s)} tokens a second${firsts}.`;
}

/** To those who listen: when how it stands has changed, else now and then. */
function speak(kind, text) {
  const since_s = (performance.now() - live.spokenAt) / 1e3;
  if (text === live.spokenText || since_s < (kind === live.spokenKind ? 20 : 2)) return;
  live.spokenAt = performance.now();
  live.spokenKind = kind;
  live.spokenText = text;
  say(byId("spoken"), text);
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(live.sleep);
  if (document.hidden) {
    live.sleep = setTimeout(() => {
      live.source?.close();
      live.source = null;
    }, HIDDEN_S * 1e3);
  } else {
    if (live.status) draw(live.status);
    if (!live.source) ask();
  }
});
NARROW.addEventListener("change", () => live.status && drawGate(live.status));
setInterval(() => {
  if (live.source && performance.now() - live.heardAt > SILENT_S * 1e3) ask();
}, 1e3);
startBox();
connect();
