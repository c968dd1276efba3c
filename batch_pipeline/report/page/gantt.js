// The Gantt chart: a row a sample, those first that ended last, a bar a cell.

const MOST_BARS = 200, BAR = 15, AXIS = 24;
const ROUND_TIMES = [100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 3e4, 6e4, 12e4, 3e5, 6e5, 12e5, 18e5, 36e5, 72e5, 144e5,
  288e5, 864e5];
let bars = [], isNear = false, isDrawn = false;

/** The samples of the order that ended last, at most so many. */
function stragglers() {
  const ends = new Float64Array(order.length);
  for (let at = 0; at < order.length; at++) {
    let end = 0;
    for (const step of steps) if (!step.gather) end = Math.max(end, endOf(step, order[at]));
    // A number of both, so that they are sorted as numbers: 2 ** 53 is exact.
    ends[at] = end ? end * 2 ** 22 + at : 0;
  }
  ends.sort();
  return Array.from(ends.slice(-MOST_BARS).reverse()).filter(Boolean).map((key) => order[key % 2 ** 22]);
}

/** Ticks from the first start of the run to the end of a cell, rounded up; 0 where nobody knows. */
function endOf(step, sample) {
  const start = step.start[sample];
  return start ? Math.ceil(start + numberOf(step.duration[sample]) / meta.tick_ms) : 0;
}

/** Draws the chart when it is near: who only looks at the map does not wait for it. */
function drawGantt() {
  isDrawn = false;
  if (isNear) drawBars();
}

function drawBars() {
  const canvas = byId("gantt");
  if (!canvas || isDrawn) return;
  isDrawn = true;
  const shown = stragglers(), palette = colours();
  const { context, width } = fitted(canvas, AXIS + BAR * Math.max(shown.length, 1) + 6);
  const room = width - LABELS - 14, total = Math.max(meta.end_ms - meta.begin_ms, 1);
  const place = (ms) => LABELS + (room * ms) / total;
  context.font = "11.5px system-ui, sans-serif";
  const step = ROUND_TIMES.find((ms) => total / ms <= 8) || 86400000 * Math.ceil(total / 691200000);
  for (let ms = 0; ms <= total; ms += step) {
    context.fillStyle = palette.line;
    context.fillRect(place(ms), 0, 1, AXIS + BAR * shown.length);
    context.fillStyle = palette.faint;
    context.textAlign = "left";
    context.fillText(ms ? lasting(ms).replace(" 0 min", "") : "0", place(ms) + 4, 9);
  }
  bars = [];
  for (const [row, sample] of shown.entries()) {
    const top = AXIS + BAR * row;
    context.fillStyle = palette.ink;
    context.textAlign = "right";
    context.fillText(shortened(names[sample], 22), LABELS - 10, top + BAR / 2);
    for (const [number, step] of steps.entries()) {
      if (step.gather || !step.start[sample]) continue;
      const left = place(startOf(step.start[sample]) - meta.begin_ms);
      const wide = Math.max((room * numberOf(step.duration[sample])) / total, 2);
      const failed = step.state[sample] === FAILED;
      context.fillStyle = failed ? palette.states[FAILED] : palette.steps[number];
      context.fillRect(left, top + 2, wide, BAR - 4);
      if (failed) context.fillText("×", left + wide + 10, top + BAR / 2);
      bars.push({ left, right: left + wide, top, number, sample });
    }
  }
  byId("gantt-note").textContent = `${count(shown.length, "sample")} of those that the map shows, the last to end first.`;
}

function listenToGantt() {
  const canvas = byId("gantt");
  if (!canvas) return;
  new IntersectionObserver(([entry]) => {
    isNear = entry.isIntersecting;
    if (isNear) drawBars();
  }, { rootMargin: "400px" }).observe(canvas);
  addEventListener("beforeprint", drawBars);
  const palette = colours();
  for (const [number, step] of meta.steps.entries()) {
    if (!step.gather) byId("gantt-legend").append(element("li", {}, swatch(palette.steps[number], ""), step.name));
  }
  byId("gantt-legend").append(element("li", {}, swatch(palette.states[FAILED], "×"), "failed"));
  canvas.addEventListener("click", (event) => {
    const bar = bars.find((one) => event.offsetY >= one.top && event.offsetY < one.top + BAR
      && event.offsetX >= one.left - 2 && event.offsetX <= one.right + 2);
    if (bar) showCell(bar.number, bar.sample);
  });
}
