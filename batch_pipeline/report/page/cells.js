"use strict";
// The cells of the run: unpacked columns, and words for them. Data only ever becomes text, by textContent or append.

const meta = JSON.parse(document.getElementById("meta").textContent);
const byId = (id) => document.getElementById(id);
const STATES = meta.states;
const SIGNS = { failed: "×", "not-run": "↳", cancelled: "⊘", unknown: "?", "left-out": "–", "to-run": "○", running: "…",
  reused: "·", kept: "=", excluded: "", done: "" };
const FAILED = STATES.findIndex((state) => state.key === "failed");
const details = new Map(meta.details.map((detail) => [`${detail.step}/${detail.sample}`, detail]));

/** Columns of numbers by step, names by sample, and the samples that are shown, in their order. */
const steps = [];
let names = [];
let order = new Uint32Array(0);

// Unpacking.

async function unpacked(id) {
  const element = byId(id);
  const packed = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function columnsOf(bytes, cells) {
  const columns = {};
  let start = 0;
  for (const [name, width] of meta.columns) {
    const planes = Array.from({ length: width }, (_, at) => bytes.subarray(start + at * cells, start + (at + 1) * cells));
    columns[name] = width === 1 ? planes[0].slice() : width === 2 ? joined(new Uint16Array(cells), ...planes)
      : joined(new Uint32Array(cells), ...planes);
    start += width * cells;
  }
  return columns;
}

/** Numbers of two or four bytes, whose bytes lie apart by their significance. */
function joined(column, first, second, third, fourth) {
  const cells = column.length;
  for (let at = 0; at < cells; at++) column[at] = first[at] | (second[at] << 8);
  for (let at = 0; at < cells && third; at++) column[at] |= (third[at] << 16) | (fourth[at] << 24);
  return column;
}

/** The number of a 16-bit code: see `report.page.packing`. */
function numberOf(code) {
  return code < 1024 ? code : ((code & 511) + 512) * 2 ** ((code >> 9) - 1);
}

// Elements and words.

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    states: STATES.map((state) => value(state.key)),
    steps: meta.steps.map((_, number) => value(`step-${number % 8}`)),
    ink: value("ink"), faint: value("faint"), line: value("line"), ground: value("ground"), accent: value("accent"),
    ramp: ramp(value("low"), value("high")),
  };
}

function ramp(low, high) {
  const parts = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  const from = parts(low), to = parts(high);
  const mixed = (share) => from.map((value, at) => Math.round(value + (to[at] - value) * share)).join(",");
  return Array.from({ length: 64 }, (_, number) => `rgb(${mixed(number / 63)})`);
}

const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

function lasting(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 90) return `${Number(seconds.toPrecision(3))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const sizeOf = (mib) => (mib < 1024 ? `${mib} MiB` : `${Number((mib / 1024).toPrecision(3))} GiB`);
const startOf = (ticks) => meta.begin_ms + (ticks - 1) * meta.tick_ms;
const momentOf = (ticks) => new Date(startOf(ticks)).toISOString().slice(0, meta.tick_ms < 1000 ? 23 : 19)
  .replace("T", " ") + " UTC";
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
const reasonOf = (number) => meta.reasons[number].replaceAll("_", " ");
const nameOf = (step, sample) => (step.gather ? "all samples" : names[sample]);

function stateWords(step, sample) {
  const state = STATES[step.state[sample]].words, reason = step.reason[sample];
  return reason && step.state[sample] === FAILED ? `${state}: ${reasonOf(reason)}` : state;
}
