// The `openai` package for Node, used as its own documentation shows. Lines in and out are those of scripts/telling.py.

import { createInterface } from "node:readline";
import OpenAI from "openai";

const MODEL = "headgate-simulated";

const client = ({ url, key = "none", headers, max_retries, timeout }) =>
  new OpenAI({
    baseURL: `${url}/v1`,
    apiKey: key,
    defaultHeaders: headers,
    ...(max_retries === undefined ? {} : { maxRetries: max_retries }),
    ...(timeout === undefined ? {} : { timeout: timeout * 1000 }),
  });

const messages = (text) => [{ role: "user", content: text }];

async function models(told, { ask }) {
  const sdk = client(ask);
  told.more.models = [];
  for await (const model of sdk.models.list()) told.more.models.push(model.id);
  told.more.one = (await sdk.models.retrieve(MODEL)).id;
}

async function whole(told, { ask, tokens = 4, text = "Hello", model = MODEL, ...fields }) {
  const answer = await client(ask).chat.completions.create({
    model,
    messages: messages(text),
    max_tokens: tokens,
    ...fields,
  });
  told.text = answer.choices[0].message.content ?? "";
  told.finish = answer.choices[0].finish_reason;
  told.usage = answer.usage;
  told.headgate = answer.headgate ?? null;
  told.more.texts = answer.choices.map((choice) => choice.message.content);
  told.more.tool_calls = answer.choices[0].message.tool_calls ?? [];
}

async function streamed(told, { ask, tokens = 4, text = "Hello", usage = false, stop_after, ...fields }) {
  const stream = await client(ask).chat.completions.create({
    model: MODEL,
    messages: messages(text),
    max_tokens: tokens,
    stream: true,
    ...(usage ? { stream_options: { include_usage: true } } : {}),
    ...fields,
  });
  const calls = {};
  for await (const chunk of stream) {
    if (chunk.usage) {
      told.usage = chunk.usage;
      told.headgate = chunk.headgate ?? null;
    }
    if (usage && chunk.choices.length === 0) continue;
    const choice = chunk.choices[0];
    told.finish = choice.finish_reason ?? told.finish;
    for (const call of choice.delta.tool_calls ?? []) {
      const seen = (calls[call.index] ??= { name: "", arguments: "" });
      seen.name += call.function?.name ?? "";
      seen.arguments += call.function?.arguments ?? "";
    }
    if (choice.delta.content) {
      told.text += choice.delta.content;
      told.pieces += 1;
    }
    if (stop_after !== undefined && told.pieces >= stop_after) break; // the loop's end aborts the request
  }
  told.more.tool_calls = Object.values(calls);
}

async function cancelled(told, { ask, tokens, stop_after }) {
  const stream = await client(ask).chat.completions.create({
    model: MODEL,
    messages: messages("Hello"),
    max_tokens: tokens,
    stream: true,
  });
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content) told.pieces += 1;
    if (told.pieces >= stop_after) stream.controller.abort();
  }
  told.more.cancelled = true;
}

async function embeddings(told, { ask, texts }) {
  const answer = await client(ask).embeddings.create({ model: MODEL, input: texts });
  told.more.vectors = answer.data.map((one) => one.embedding.length);
}

function toldError(error) {
  const bases = [];
  for (let kind = Object.getPrototypeOf(error.constructor); kind?.name; kind = Object.getPrototypeOf(kind)) {
    bases.push(kind.name);
  }
  return {
    class: error.constructor.name,
    bases,
    text: String(error),
    message: error.message ?? null,
    status: error.status ?? null,
    code: error.code ?? null,
    type: error.type ?? null,
    param: error.param ?? null,
    request_id: error.requestID ?? null,
    retry_after: error.headers?.get("retry-after") ?? null,
    reason: error.headers?.get("x-headgate-reason") ?? null,
    body: error.error ?? null,
    cause: error.cause?.constructor.name ?? null,
  };
}

const table = { models, whole, streamed, cancelled, embeddings };
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const keepPauses = globalThis.setTimeout;

say({ ready: Object.keys(table).sort() });
for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, note_pauses: notePauses = false, ...asked } = JSON.parse(line);
  const told = {
    ...{ text: "", pieces: 0, finish: null, usage: null, headgate: null, error: null },
    ...{ seconds: 0, slept: [], retries: [], more: {} },
  };
  if (notePauses) {
    // Node's own connections use the same function, and so does the client for its time limit, which is minutes long.
    globalThis.setTimeout = (then, ms, ...rest) => {
      const asksItself = new Error().stack.includes("node_modules/openai");
      if (ms >= 300_000 || !asksItself) return keepPauses(then, ms, ...rest);
      told.slept.push(ms / 1000);
      return keepPauses(then, 0, ...rest);
    };
  }
  const began = performance.now();
  try {
    await table[name](told, asked);
  } catch (error) {
    told.error = toldError(error);
  } finally {
    globalThis.setTimeout = keepPauses;
  }
  told.seconds = (performance.now() - began) / 1000;
  say(told);
}
process.exit(0);
