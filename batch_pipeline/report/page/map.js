// The heat map: steps as rows, samples from left to right, the worst state behind each pixel.

const LABELS = 150, ROW = meta.steps.length > 14 ? 20 : 30, GAP = 8, RULER = 22, NAMES = 100;
/** Widths in pixels from which on cells have gaps, signs and names. */
const GAPS_FROM = 4, SIGNS_FROM = 10, NAMES_FROM = 14;

/** The part of the order that the map shows, and the cell that the keys stand on. */
const view = { from: 0, to: 0 };
const cursor = { step: 0, at: -1 };

function fitted(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 1000;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "13px system-ui, sans-serif";
  context.textBaseline = "middle";
  return { context, width, height, ratio };
}

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const topOf = (number) => GAP + number * (ROW + GAP);
const mapWidth = () => Math.max(byId("heat").clientWidth - LABELS, 1);
const cellWidth = () => mapWidth() / Math.max(view.to - view.from, 1);

/** The samples of the order, from one to before another, behind column x of a map of so many columns. */
function behind(x, columns) {
  const each = (view.to - view.from) / columns;
  const first = Math.min(Math.floor(view.from + x * each), order.length - 1);
  return [first, Math.max(first + 1, Math.min(Math.floor(view.from + (x + 1) * each), order.length))];
}

function drawMap() {
  const named = cellWidth() >= NAMES_FROM;
  const fit = fitted(byId("heat"), topOf(steps.length) + (named ? NAMES : RULER));
  const paint = { ...fit, colours: colours(), cell: cellWidth(), columns: Math.round(mapWidth() * fit.ratio) };
  const field = byId("colour").value;
  paint.field = field === "state" ? "" : field;
  paint.most = paint.field ? Math.max(...steps.map((step) => largest(step[field]))) : 0;
  for (const [number, step] of steps.entries()) {
    paint.context.fillStyle = paint.colours.ink;
    paint.context.textAlign = "right";
    paint.context.fillText(shortened(meta.steps[number].name, 19), LABELS - 12, topOf(number) + ROW / 2);
    if (step.gather) drawGather(paint, step, topOf(number));
    else if (order.length) drawRow(paint, step, topOf(number));
  }
  if (named) drawNames(paint);
  else drawRuler(paint);
  drawCursor(paint);
}

const largest = (column) => column.reduce((most, code) => (code > most ? code : most), 0);

/** The colour of a state, or of the largest number of the cells behind a pixel where none failed. */
function colourOf(paint, state, code) {
  if (!paint.field || state === FAILED) return paint.colours.states[state];
  return code ? paint.colours.ramp[Math.floor((63 * code) / paint.most)] : paint.colours.states[0];
}

/** Draws the pixels of a step, neighbours of one colour at once. */
function drawRow(paint, step, top) {
  const { context, columns, ratio } = paint, states = step.state, codes = paint.field ? step[paint.field] : null;
  const failures = [];
  let start = 0, before = null;
  for (let x = 0; x <= columns; x++) {
    let colour = null;
    if (x < columns) {
      const [first, last] = behind(x, columns);
      let worst = 0, most = 0;
      for (let at = first; at < last; at++) {
        const sample = order[at];
        if (states[sample] > worst) worst = states[sample];
        if (codes && codes[sample] > most) most = codes[sample];
      }
      if (worst === FAILED) failures.push(x);
      colour = colourOf(paint, worst, most);
    }
    if (colour === before) continue;
    if (before !== null) {
      context.fillStyle = before;
      context.fillRect(LABELS + start / ratio, top, (x - start) / ratio, ROW);
    }
    start = x;
    before = colour;
  }
  markFailures(paint, failures, top);
  if (paint.cell >= GAPS_FROM) drawCells(paint, step, top);
}

/** Failed pixels are at least two wide, and have a mark above: colour alone does not tell everybody. */
function markFailures(paint, failures, top) {
  const { context, ratio } = paint;
  context.fillStyle = paint.colours.states[FAILED];
  for (const x of failures) {
    const left = LABELS + x / ratio;
    context.fillRect(left - (paint.cell < 2 ? 0.5 : 0), top, Math.max(1 / ratio, paint.cell < 2 ? 2 : 0), ROW);
    if (paint.cell >= SIGNS_FROM) continue;
    context.beginPath();
    context.moveTo(left - 2.5, top - 5);
    context.lineTo(left + 3.5, top - 5);
    context.lineTo(left + 0.5, top);
    context.fill();
  }
}

/** Gaps between cells that are wide enough, and the signs of their states. */
function drawCells(paint, step, top) {
  const { context, cell, colours: palette } = paint;
  const last = Math.min(Math.ceil(view.to), order.length);
  for (let at = Math.floor(view.from); at < last; at++) {
    const left = LABELS + (at - view.from) * cell;
    context.fillStyle = palette.ground;
    if (left > LABELS) context.fillRect(left - 0.5, top, 1, ROW);
    const state = step.state[order[at]], sign = SIGNS[STATES[state].key];
    if (!sign || cell < SIGNS_FROM || left + cell / 2 < LABELS) continue;
    context.textAlign = "center";
    context.fillStyle = state === FAILED ? palette.ground : palette.ink;
    context.fillText(sign, left + cell / 2, top + ROW / 2);
  }
}

function drawGather(paint, step, top) {
  const { context, width, colours: palette } = paint, state = step.state[0];
  context.fillStyle = palette.states[state];
  context.fillRect(LABELS, top, width - LABELS, ROW);
  context.textAlign = "left";
  context.fillStyle = state === FAILED ? palette.ground : palette.ink;
  context.fillText(`${SIGNS[STATES[state].key]} all samples: ${stateWords(step, 0)}`.trim(), LABELS + 10, top + ROW / 2);
}

function drawNames(paint) {
  const { context, cell } = paint, top = topOf(steps.length);
  context.fillStyle = paint.colours.faint;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  for (let at = Math.max(0, Math.ceil(view.from - 0.5)); at < Math.min(view.to, order.length); at++) {
    const left = LABELS + (at - view.from + 0.5) * cell;
    if (left < LABELS) continue;
    context.save();
    context.translate(left, top);
    context.rotate(-Math.PI / 3);
    context.fillText(shortened(names[order[at]], 16), 0, 0);
    context.restore();
  }
}

/** Where in the order the map is: its first and last sample, and a bar. */
function drawRuler(paint) {
  const { context, width, colours: palette } = paint, top = topOf(steps.length) + 8;
  context.font = "11.5px system-ui, sans-serif";
  context.fillStyle = palette.faint;
  context.textAlign = "left";
  const first = order.length ? Math.floor(view.from) + 1 : 0, last = Math.min(Math.ceil(view.to), order.length);
  const words = `${first.toLocaleString("en")} to ${last.toLocaleString("en")} of ${count(order.length, "sample")}`;
  context.fillText(words, LABELS, top + 4);
  if (view.to - view.from >= order.length) return;
  const room = 160, start = width - room;
  context.fillStyle = palette.line;
  context.fillRect(start, top + 1, room, 5);
  context.fillStyle = palette.faint;
  const share = room / Math.max(order.length, 1);
  context.fillRect(start + view.from * share, top + 1, Math.max(2, (view.to - view.from) * share), 5);
}

function drawCursor(paint) {
  if (cursor.at < 0 || cursor.at < Math.floor(view.from) || cursor.at >= view.to) return;
  const { context, cell } = paint, gather = steps[cursor.step].gather;
  context.strokeStyle = paint.colours.ink;
  context.lineWidth = 2;
  const left = gather ? LABELS : LABELS + (cursor.at - view.from) * cell;
  context.strokeRect(left - 1, topOf(cursor.step) - 1, Math.max(gather ? mapWidth() : cell, 3) + 1, ROW + 2);
}

// Pointing, zooming and moving.

/** The step and the samples of the order under a point of the canvas; null beside the map. */
function under(x, y) {
  const number = Math.floor((y - GAP / 2) / (ROW + GAP));
  if (number < 0 || number >= steps.length || x < LABELS || !(order.length || steps[number].gather)) return null;
  const [first, last] = steps[number].gather ? [0, 1] : behind(x - LABELS, mapWidth());
  return { number, first, last };
}

/** Of the cells under a point the worst one, and the first of those: its place in the order. */
function worstUnder({ number, first, last }) {
  const step = steps[number];
  let worst = first;
  for (let at = first; at < last && !step.gather; at++) {
    if (step.state[order[at]] > step.state[order[worst]]) worst = at;
  }
  return worst;
}

function point(words) {
  byId("pointed").textContent = words;
}

function describe({ number, first, last }) {
  const step = steps[number], name = meta.steps[number].name;
  if (step.gather || last - first === 1) {
    const sample = step.gather ? 0 : order[first];
    const took = step.duration[sample] ? ` · ${lasting(numberOf(step.duration[sample]))}` : "";
    return `${name} · ${nameOf(step, sample)} · ${stateWords(step, sample)}${took}`;
  }
  const counts = STATES.map(() => 0);
  for (let at = first; at < last; at++) counts[step.state[order[at]]] += 1;
  const words = counts.map((cells, state) => (cells ? `${cells.toLocaleString("en")} ${STATES[state].words}` : ""));
  return `${name} · ${names[order[first]]} to ${names[order[last - 1]]} · ${words.reverse().filter(Boolean).join(", ")}`;
}

function zoom(factor, around) {
  const span = Math.min(Math.max((view.to - view.from) * factor, Math.min(8, order.length)), order.length);
  const share = (around - view.from) / Math.max(view.to - view.from, 1e-9);
  move(around - share * span, span);
}

/** Shows so many samples from one on; both are whole numbers, so that cells begin at the edge. */
function move(from, span = view.to - view.from) {
  const whole = Math.round(span);
  view.from = Math.min(Math.max(Math.round(from), 0), order.length - whole);
  view.to = view.from + whole;
  drawMap();
}

const middle = () => (cursor.at >= 0 ? cursor.at + 0.5 : (view.from + view.to) / 2);

/** Puts the cursor on a cell, moves the map to it and says what it is. */
function stand(number, at) {
  cursor.step = Math.min(Math.max(number, 0), steps.length - 1);
  cursor.at = Math.min(Math.max(at, 0), Math.max(order.length - 1, 0));
  const span = view.to - view.from;
  if (cursor.at < view.from || cursor.at + 1 > view.to) move(cursor.at - span / 2, span);
  else drawMap();
  const first = steps[cursor.step].gather ? 0 : cursor.at;
  if (order.length || steps[cursor.step].gather) point(describe({ number: cursor.step, first, last: first + 1 }));
}

function pressed(event) {
  const span = view.to - view.from, by = event.shiftKey ? 0 : Math.max(1, Math.round(1 / cellWidth()));
  const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (side && event.shiftKey) move(view.from + (side * span) / 4);
  else if (side) stand(cursor.step, cursor.at < 0 ? Math.floor(view.from) : cursor.at + side * by);
  else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    stand(cursor.step + (event.key === "ArrowUp" ? -1 : 1), Math.max(cursor.at, Math.floor(view.from)));
  } else if (event.key === "Home" || event.key === "End") stand(cursor.step, event.key === "Home" ? 0 : order.length - 1);
  else if (event.key === "+" || event.key === "=") zoom(0.5, middle());
  else if (event.key === "-") zoom(2, middle());
  else if (event.key === "0") move(0, order.length);
  else if (event.key === "Enter" && cursor.at >= 0) openAt(cursor.step, cursor.at);
  else return;
  event.preventDefault();
}

/** Shows the cell at a place of the order, if a filter has left one there. */
function openAt(number, at) {
  const sample = steps[number].gather ? 0 : order[at];
  if (sample !== undefined) showCell(number, sample);
}

function listenToMap() {
  const canvas = byId("heat");
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, from: view.from, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag && Math.abs(event.offsetX - drag.x) > 3) drag.moved = true;
    if (drag && drag.moved) move(drag.from - (event.offsetX - drag.x) / cellWidth());
    const place = under(event.offsetX, event.offsetY);
    if (place && !drag) point(describe(place));
  });
  canvas.addEventListener("pointerup", (event) => {
    const place = drag && !drag.moved ? under(event.offsetX, event.offsetY) : null;
    drag = null;
    if (!place) return;
    cursor.step = place.number;
    cursor.at = worstUnder(place);
    drawMap();
    openAt(place.number, cursor.at);
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, view.from + Math.max(event.offsetX - LABELS, 0) / cellWidth());
  }, { passive: false });
  canvas.addEventListener("keydown", pressed);
  byId("zoom-in").addEventListener("click", () => zoom(0.5, middle()));
  byId("zoom-out").addEventListener("click", () => zoom(2, middle()));
  byId("zoom-all").addEventListener("click", () => move(0, order.length));
}
