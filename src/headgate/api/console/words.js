// Words for numbers, and what each reason means. Pure: no document, no clock.

const REASONS = {
  slots_busy: [429, "No slot was free, and nobody may wait (QUEUE_MODE=reject)."],
  rate_limited: [429, "The key asked for more in a minute than it may, or all callers together did (RATE_LIMIT_PER_MIN)."],
  queue_full: [429, "All slots were busy and the line was full (QUEUE_MAX, QUEUE_MAX_BYTES)."],
  wait_too_long: [429, "The wait would have been longer than the caller, or the line, has time for."],
  shed: [429, "Turned away by chance under high load (SHED)."],
  queue_timeout: [503, "Waited for as long as one may (QUEUE_TIMEOUT_S)."],
  engine_unavailable: [503, "No engine became ready in time (WAKE_TIMEOUT_S)."],
  too_many_connections: [503, "As many clients were connected as may be (MAX_CONNECTIONS)."],
  draining: [503, "The gateway was shutting down."],
  engine_failed: [502, "The engine broke before its first byte, twice."],
  request_timeout: [504, "Took longer than a request may (REQUEST_TIMEOUT_S)."],
  invalid_request: [400, "The caller's body can't be served as it is."],
  unauthorized: [401, "No key, or a wrong one."],
  forbidden: [403, "The key may not do this."],
  not_found: [404, "No such path or model."],
  too_large: [413, "The body is over MAX_BODY_BYTES."],
  head_too_large: [431, "The request's head was over MAX_HEAD_BYTES."],
  request_incomplete: [408, "The request didn't arrive whole in time (HEAD_TIMEOUT_S, BODY_TIMEOUT_S)."],
  unsupported_media_type: [415, "The body's type was not JSON, nor multipart for audio."],
};

/** 85 ms, 1.2 s, 42 s, 3 min 5 s, 2 h 10 min, 4 d 3 h. */
function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.9995) return `${(seconds * 1e3).toFixed(seconds >= 0.00995 || seconds === 0 ? 0 : 1)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [large, small, per, unit] of [["d", "h", 86400, 3600], ["h", "min", 3600, 60], ["min", "s", 60, 1]]) {
    if (whole < per) continue;
    const rest = Math.floor((whole % per) / unit);
    return rest ? `${Math.floor(whole / per)} ${large} ${rest} ${small}` : `${Math.floor(whole / per)} ${large}`;
  }
  return `${whole} s`;
}

/** No line ends between a number and its unit. */
function unbroken(text) {
  return text.replace(/(\d) (s|min|%)(?=[\s.,;:)]|$)/g, "$1\u00a0$2");
}

/** 0.9 s, 12 s: a time that runs, always in seconds. */
function running(seconds) {
  return seconds < 9.95 ? `${seconds.toFixed(1)} s` : span(seconds);
}

/** 5 s, 500 ms: a round number on an axis. */
function mark(seconds) {
  return span(seconds).replace(".0 ", " ");
}

/** Whole seconds, for what is only an estimate. */
function about(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return "<1 s";
  const whole = Math.ceil(seconds);
  return whole < 60 ? `${whole} s` : span(whole);
}

/** 0, 0.4, 12, 1,240; never a 0 for something that is there. */
function count(number) {
  if (number === null || number === undefined) return "–";
  if (number > 0 && number < 0.05) return "<0.1";
  if (number < 9.95 && !Number.isInteger(number)) return number.toFixed(1);
  return Math.round(number).toLocaleString("en");
}

function percent(share) {
  if (share > 0.9995 && share < 1) return "99.9 %";
  return `${(share * 100).toFixed(share < 0.9995 && share > 0.95 ? 1 : 0)} %`;
}

/** 512 MiB, 38.2 GiB. */
function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (number >= 1024 && at < units.length - 1) {
    number /= 1024;
    at += 1;
  }
  return `${number < 9.95 && at ? number.toFixed(1) : Math.round(number)} ${units[at]}`;
}

function dollars(amount) {
  return `$${amount < 1 ? amount.toPrecision(2) : amount.toLocaleString("en", { maximumFractionDigits: 2 })}`;
}

function many(number, one, several) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

/** The next of 1, 2, 5, 10, 20, … : where an axis may end. */
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5]) if (value <= step * power * 1.0001) return step * power;
  return 10 * power;
}
