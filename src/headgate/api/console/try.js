// The box: one prompt, or a burst, on the road that all clients take. It shows the wait, the stream, the refusal.

const BURST = 20;

const box = { abort: null, clock: 0, place: "" };

function startBox() {
  const key = byId("key");
  key.value = sessionStorage.getItem("headgate.key") ?? "";
  key.addEventListener("change", () => sessionStorage.setItem("headgate.key", key.value));
  say(byId("base-url"), `base_url = "${location.origin}/v1"`);
  say(byId("burst"), `Send ${BURST} at once`);
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    run(askOnce);
  });
  byId("burst").addEventListener("click", () => {
    if (byId("ask").reportValidity()) run(askMany);
  });
  byId("stop").addEventListener("click", () => box.abort?.abort());
}

/** What the box offers follows from what the gateway serves. */
function drawBox(status) {
  show(byId("key-field"), status.auth?.generation === "key");
  const models = [...new Set((status.engines ?? []).flatMap((engine) => engine.models))];
  keyed(byId("model"), models, (name) => name, (name) => make("option", { value: name }, name), () => {});
}

function request() {
  return {
    model: byId("model").value,
    messages: [{ role: "user", content: byId("prompt").value }],
    max_tokens: Number(byId("tokens").value),
    stream: byId("stream").checked,
  };
}

function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (body.stream) headers["x-headgate-wait"] = "events"; // its place in the line is told as it waits
  const key = byId("key");
  if (!byId("key-field").hidden && key.value) {
    sessionStorage.setItem("headgate.key", key.value);
    headers.authorization = `Bearer ${key.value}`;
  }
  // With no credentials of the browser's own: it keeps these connections apart from the one that the page watches by.
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal, credentials: "omit", cache: "no-store" });
}

async function run(task) {
  if (box.abort) return;
  box.abort = new AbortController();
  const pressed = document.activeElement; // a button that is put out of use lets go of the focus, and with it of the place
  byId("stop").disabled = false;
  if (pressed === byId("send") || pressed === byId("burst")) byId("stop").focus();
  for (const id of ["send", "burst"]) byId(id).disabled = true;
  show(byId("outcome"), true);
  for (const id of ["answer", "fates", "figures"]) show(byId(id), false);
  byId("answer").replaceChildren();
  byId("fates").replaceChildren();
  const began = performance.now();
  box.place = "";
  clearInterval(box.clock);
  if (byId("outcome").getBoundingClientRect().top > window.innerHeight - 48) byId("outcome").scrollIntoView({ block: "nearest" });
  box.clock = setInterval(() => say(byId("clock"), `${box.place}${running((performance.now() - began) / 1e3)}`), 100);
  try {
    await task(box.abort.signal);
  } catch (error) {
    if (box.abort.signal.aborted) tell("stopped", "Stopped. Its slot is free again, and the engine has dropped its work.");
    else tell("refused", error instanceof SyntaxError ? "The answer can't be read." : "The connection to the gateway broke.");
  } finally {
    box.abort.abort(); // what is left of an answer that couldn't be read to its end holds a slot
    clearInterval(box.clock);
    if (box.counting === undefined) say(byId("clock"), "");
    const focused = document.activeElement === byId("stop");
    byId("stop").disabled = true;
    for (const id of ["send", "burst"]) byId(id).disabled = false;
    if (focused) (pressed === byId("burst") ? pressed : byId("send")).focus();
    box.abort = null;
  }
}

function tell(state, text) {
  stopCounting();
  set(byId("outcome"), "data-state", state);
  say(byId("outcome-state"), text);
}

// One.

async function askOnce(signal) {
  tell("waiting", "Sent. It waits for a slot and its first token …");
  const asked = request();
  const answer = await post("/v1/chat/completions", asked, signal);
  if (!answer.ok) return refused(answer);
  const facts = { id: answer.headers.get("x-request-id"), engine: answer.headers.get("x-headgate-engine"), queue_ms: answer.headers.get("x-headgate-queue-ms") };
  if ((answer.headers.get("content-type") ?? "").startsWith("text/event-stream")) await readStream(answer, facts);
  else await readWhole(answer, facts);
  drawFigures(facts);
  if (facts.error && !facts.began) {
    tell("refused", `Refused with ${facts.error.code ?? "an error"}: ${facts.error.message ?? "no reason given."}`);
    if (facts.error.retry_after_s) countDown(facts.error.retry_after_s * 1e3);
  } else if (facts.error) tell("refused", `The answer was cut short: ${facts.error.message ?? "no reason given"}`);
  else if (facts.ended) tell("done", "Answered.");
  else tell("refused", "The answer was cut short: the stream has no end.");
  return undefined;
}

async function readWhole(answer, facts) {
  const body = await answer.json();
  Object.assign(facts, body.headgate, { ended: true });
  show(byId("answer"), true);
  byId("answer").append(String(body.choices?.[0]?.message?.content ?? ""));
}

async function readStream(answer, facts) {
  const place = byId("answer");
  for await (const event of eventsOf(answer.body)) {
    for (const line of event.split("\n")) {
      if (line.startsWith(": headgate ")) Object.assign(facts, JSON.parse(line.slice(11)));
      if (line.startsWith(": queued ")) box.place = placeIn(line);
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") facts.ended = true;
      else {
        const chunk = JSON.parse(line.slice(6));
        if (chunk.error) facts.error = chunk.error;
        if (chunk.headgate) Object.assign(facts, chunk.headgate);
        if (!chunk.error && !facts.began) begin(facts);
        const text = chunk.choices?.[0]?.delta?.content;
        if (text) {
          const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
          place.append(String(text));
          if (atEnd) place.scrollTop = place.scrollHeight;
        }
      }
    }
  }
}

/** `: queued position=3 eta_s=2`, in words. */
function placeIn(line) {
  const told = Object.fromEntries(line.slice(9).split(" ").map((pair) => pair.split("=")));
  const soon = told.eta_s === undefined ? "" : `, a slot in about ${about(Number(told.eta_s))}`;
  return `place ${Number(told.position)}${soon} · `;
}

function begin(facts) {
  facts.began = true;
  box.place = "";
  tell("answering", "Answering …");
  show(byId("answer"), true);
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = parts.pop();
    yield* parts;
  }
}

function drawFigures(facts) {
  show(byId("figures"), true);
  figures(byId("figures"), [
    ["request", facts.id],
    ["engine", facts.engine],
    ["waited in line", facts.queue_ms === null ? null : span(Number(facts.queue_ms) / 1e3)],
    ["first token after", facts.ttft_ms === undefined || facts.ttft_ms === null ? null : span(facts.ttft_ms / 1e3)],
    ["all after", facts.latency_ms === undefined ? null : span(facts.latency_ms / 1e3)],
    ["tokens", facts.completion_tokens === undefined ? null : count(facts.completion_tokens)],
    ["tokens a second", facts.tokens_per_second === undefined ? null : count(facts.tokens_per_second)],
  ]);
}

async function refused(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // not ours: a proxy's, say; the status has to do
  }
  const reason = answer.headers.get("x-headgate-reason") ?? error.code ?? "";
  tell("refused", `Refused with ${answer.status} ${reason}: ${error.message ?? "no reason given."}`);
  const wait_ms = Number(answer.headers.get("retry-after-ms")) || 1e3 * Number(answer.headers.get("retry-after"));
  if (wait_ms) countDown(wait_ms);
  figures(byId("figures"), [["request", answer.headers.get("x-request-id")]]);
  show(byId("figures"), true);
}

function countDown(wait_ms) {
  const until = performance.now() + wait_ms;
  const look = () => {
    const left = (until - performance.now()) / 1e3;
    say(byId("clock"), left > 0 ? `come back in ${about(left)}` : "room is expected now");
    if (left <= 0) clearInterval(box.counting);
  };
  box.counting = setInterval(look, 200);
  setTimeout(look); // after `run` has put the clock away
}

function stopCounting() {
  clearInterval(box.counting);
  box.counting = undefined;
}

// Many.

const FATES = { waiting: "waits", answering: "answering", done: "answered", refused: "refused", failed: "failed" };

async function askMany(signal) {
  tell("waiting", `${BURST} sent at once …`);
  const answer = await post(`/console/burst?count=${BURST}`, request(), signal);
  if (!answer.ok) return refused(answer);
  show(byId("fates"), true);
  let fates = [];
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (!lines.length) continue;
    fates = JSON.parse(lines[lines.length - 1]);
    drawFates(fates);
  }
  const longest = Math.max(0, ...fates.map((fate) => fate.queue_ms ?? 0)) / 1e3;
  tell(fates.some(({ state }) => state === "done") ? "done" : "refused", `All have ended: ${tally(fates)}.${longest ? ` The longest wait was ${span(longest)}.` : ""}`);
  return undefined;
}

function tally(fates) {
  const sums = new Map();
  for (const { state, reason } of fates) {
    const name = state === "refused" || state === "failed" ? `${FATES[state]} (${reason})` : state === "waiting" ? "waiting" : FATES[state];
    sums.set(name, (sums.get(name) ?? 0) + 1);
  }
  return [...sums].map(([name, times]) => `${times} ${name}`).join(", ");
}

function drawFates(fates) {
  keyed(
    byId("fates"),
    fates.map((fate, at) => ({ ...fate, at })),
    ({ at }) => at,
    () => make("li", {}, make("span", { class: "who" }), make("span", { class: "does" })),
    (item, { at, state, tokens, reason, queue_ms: queued }) => {
      const [who, does] = item.children;
      set(item, "class", `fate ${state}`);
      set(item, "title", queued === null ? null : `waited ${span(queued / 1e3)}`);
      say(who, `${at + 1}`);
      say(does, state === "refused" || state === "failed" ? reason ?? FATES[state] : state === "answering" || state === "done" ? `${count(tokens)} ${state === "done" ? "✓" : "…"}` : FATES[state]);
    },
  );
  const states = new Set(fates.map(({ state }) => state));
  if (states.has("waiting") || states.has("answering")) {
    set(byId("outcome"), "data-state", states.has("answering") ? "answering" : "waiting");
    say(byId("outcome-state"), `${tally(fates)}.`); // a screen reader hears it when the mix changes, not at each token
  }
}
