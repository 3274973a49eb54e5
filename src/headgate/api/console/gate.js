// The canal: the line held back, the gate, and the slots as cells that fill.

const CELLS = 32; // more are small squares
const SQUARES = 128; // more are told by key
const NARROW = window.matchMedia("(max-width: 40rem)");

/** Which cells of an engine are whose. One that ends leaves its cells empty, and nobody else moves. */
class Cells {
  constructor() {
    this.row = []; // [id, weight], or null for a free cell
  }

  settle(slots, held) {
    const present = new Map(held.map((each) => [each.id, each]));
    this.row = this.row.flatMap((cell) => (cell && !present.has(cell[0]) ? Array(cell[1]).fill(null) : [cell]));
    const placed = new Set(this.row.filter(Boolean).map(([id]) => id));
    for (const { id, weight } of held) if (!placed.has(id)) this.place(id, weight);
    this.fit(slots);
    return this.row.map((cell) => (cell ? present.get(cell[0]) : null));
  }

  place(id, weight) {
    let at = this.row.findIndex((_, start) => this.row.slice(start, start + weight).every((cell) => cell === null) && start + weight <= this.row.length);
    if (at < 0) at = this.row.length; // the free ones lie apart, or there are fewer of them: `fit` takes those away
    this.row.splice(at, Math.min(weight, this.row.length - at), [id, weight]);
  }

  fit(slots) {
    let size = this.row.reduce((sum, cell) => sum + (cell ? cell[1] : 1), 0);
    for (let at = this.row.length - 1; at >= 0 && size > slots; at -= 1) {
      if (this.row[at] === null) {
        this.row.splice(at, 1);
        size -= 1;
      }
    }
    for (; size < slots; size += 1) this.row.push(null);
  }
}

const cellsOf = new Map();

function drawGate(status) {
  drawSlots(status.slots, status.engines ?? []);
  drawLine(status.queue);
  const { active, max_active: slots } = status.slots;
  byId("leaf").style.setProperty("--shut", slots ? Math.min(active / slots, 1) : 1);
}

function drawSlots(slots, engines) {
  const { active, max_active: total } = slots;
  say(byId("slots-count"), total ? `${count(active)} of ${count(total)} busy` : active ? `${count(active)} still busy` : "none: no engine is ready");
  show(byId("slots-empty"), !total && !active);
  const names = Object.keys(slots.by_engine);
  const limit = NARROW.matches ? 12 : CELLS;
  const mode = total <= limit ? "cells" : total <= SQUARES ? "squares" : "groups";
  const body = byId("slots-body");
  set(body, "data-mode", mode);
  set(body, "data-size", total <= 8 ? "large" : total <= 16 ? "middle" : "small");
  if (mode === "groups") {
    keyed(body, ["groups"], (key) => `groups ${key}`, () => make("ul", { class: "groups", "aria-labelledby": "slots-title" }), (list) => drawGroups(list, slots));
    return;
  }
  keyed(
    body,
    names,
    (name) => `${mode} ${name}`,
    (name) => make("div", { class: "bank" }, make("p", { class: "bank-name" }), make("ul", { class: mode, "aria-label": `Slots of ${name}` }), make("p", { class: "quiet bank-who" })),
    (bank, name) => {
      const [title, list, who] = bank.children;
      const own = slots.by_engine[name];
      const held = slots.held.filter((each) => each.engine === name);
      say(title, `${name}: ${count(own.active)} of ${count(own.slots)}`);
      show(title, names.length > 1 || engines.length > 1);
      if (!cellsOf.has(name)) cellsOf.set(name, new Cells());
      const cells = cellsOf.get(name).settle(own.slots, held);
      keyed(list, cells.map((holder, at) => ({ holder, at })), ({ at }) => at, () => make("li"), mode === "cells" ? drawCell : drawSquare);
      show(who, mode === "squares" && held.length > 0);
      if (mode === "squares") say(who, byKey(held).map((group) => `${group.key} ${count(group.slots)}`).join(", "));
    },
  );
}

function look(holder) {
  if (!holder) return "free";
  if (!holder.stream) return "whole";
  return holder.ttft_s === null ? "prefill" : "flowing";
}

/** How far an answer has come, of the most tokens that it may have; 0 where nobody said. */
function level(holder) {
  return holder?.stream && holder.max_tokens ? Math.min(holder.tokens / (holder.max_tokens * holder.weight), 1) : 0;
}

function doing(holder) {
  if (!holder.stream) return "whole answer";
  return holder.ttft_s === null ? "first token …" : many(holder.tokens, "token", "tokens");
}

function drawCell(cell, { holder }) {
  if (!cell.firstElementChild) cell.append(make("span", { class: "who" }), make("span", { class: "age" }), make("span", { class: "does" }));
  const [who, age, does] = cell.children;
  set(cell, "class", `cell ${look(holder)}`);
  cell.style.setProperty("--weight", holder?.weight ?? 1);
  cell.style.setProperty("--level", level(holder));
  say(who, holder ? holder.key : "free");
  say(age, holder ? running(holder.age_s) : "");
  say(does, holder ? `${doing(holder)}${holder.weight > 1 ? `, ${holder.weight} slots` : ""}` : "");
  set(cell, "title", holder ? holder.model : null);
}

function drawSquare(square, { holder }) {
  if (!square.firstElementChild) square.append(make("span", { class: "spoken" }));
  set(square, "class", `square ${look(holder)}`);
  square.style.setProperty("--weight", holder?.weight ?? 1);
  square.style.setProperty("--level", level(holder));
  const text = holder ? `${holder.key}, ${running(holder.age_s)}, ${doing(holder)}` : "free";
  say(square.firstElementChild, text);
  set(square, "title", text);
}

function byKey(held) {
  const groups = new Map();
  for (const { key, weight, tokens, age_s: age, stream, ttft_s: ttft } of held) {
    const group = groups.get(key) ?? { key, slots: 0, tokens: 0, oldest: 0, early: 0 };
    group.slots += weight;
    group.tokens += tokens;
    group.oldest = Math.max(group.oldest, age);
    group.early += stream && ttft === null ? weight : 0;
    groups.set(key, group);
  }
  return [...groups.values()].sort((one, other) => other.slots - one.slots);
}

function drawGroups(list, slots) {
  const seen = slots.held.reduce((sum, { weight }) => sum + weight, 0);
  const groups = byKey(slots.held);
  const rows = groups.slice(0, 12).map((group) => ({
    ...group,
    text: `${many(group.slots, "slot", "slots")}, ${count(group.tokens)} tokens so far, the oldest ${span(group.oldest)}${group.early ? `, ${count(group.early)} before their first token` : ""}`,
  }));
  if (groups.length > 12) rows.push({ key: `${groups.length - 12} other keys`, slots: groups.slice(12).reduce((sum, group) => sum + group.slots, 0), text: "" });
  if (seen < slots.active) rows.push({ key: "not listed", slots: slots.active - seen, text: `${count(slots.active - seen)} slots, held by older requests` });
  rows.push({ key: "free", slots: Math.max(slots.max_active - slots.active, 0), text: `${count(Math.max(slots.max_active - slots.active, 0))} slots`, free: true });
  keyed(
    list,
    rows,
    ({ key, free }) => (free ? "" : key), // a key may be called "free" too
    () => make("li", { class: "group" }, make("span", { class: "who" }), make("span", { class: "bar", "aria-hidden": "true" }, make("span")), make("span", { class: "does" })),
    (row, group) => {
      const [who, bar, does] = row.children;
      say(who, group.key);
      say(does, group.text);
      set(bar.firstElementChild, "class", group.free ? "free" : "flowing");
      bar.firstElementChild.style.setProperty("--share", slots.max_active ? Math.min(group.slots / slots.max_active, 1) : 0);
    },
  );
}

function drawLine(queue) {
  const { depth, max, mode, order, line } = queue;
  say(byId("line-count"), mode === "reject" ? (depth ? `${count(depth)} wait` : "none kept") : `${count(depth)} of ${count(max)} ${depth === 1 ? "waits" : "wait"}`);
  byId("basin-water").style.setProperty("--level", max ? Math.min(depth / max, 1) : 0);
  set(byId("basin"), "data-full", mode !== "reject" && depth >= max && max > 0 ? "yes" : null);
  show(byId("line-empty"), !depth);
  say(byId("line-empty"), mode === "reject" ? "QUEUE_MODE=reject: who finds no free slot is refused at once." : "Nobody waits.");
  show(byId("line-people"), depth > 0);
  const timely = depth - queue.late - queue.aside; // they come first; whoever has waited too long lets newcomers pass
  keyed(
    byId("line-rows"),
    line,
    ({ id }) => id,
    () => make("tr", {}, make("th", { scope: "row" }), make("td", { class: "key" }), make("td"), make("td")),
    (row, waiter) => {
      const [place, key, waited, soon] = row.children;
      say(place, String(waiter.position));
      say(key, waiter.weight > 1 ? `${waiter.key} (${waiter.weight} slots)` : waiter.key);
      set(key, "title", waiter.model);
      say(waited, running(waiter.waited_s));
      say(soon, waiter.position > timely && waiter.eta_s !== null ? `${about(Math.max(waiter.eta_s, 1))} or more` : about(waiter.eta_s));
    },
  );
  const people = byId("line-people");
  set(people, "data-more", people.scrollHeight > people.clientHeight + 4 ? "yes" : null);
  const more = depth - line.length;
  const why = depth > 1 && order !== "fifo" ? `Who can still be served in time goes first (QUEUE_ORDER=${order}).` : "";
  say(byId("line-more"), `${more > 0 ? `And ${count(more)} more. ` : ""}${why}`);
}
