// The rest of the page: one cell's details, cells as a table, downloads, and the beginning.

const PAGE = 50;
const NAME = meta.run || "all";
let page = 0;

const row = (name, ...value) => element("div", {}, element("dt", {}, name), element("dd", {}, ...value));
const commandLine = (words) => element("code", { className: "command" }, words);

function showCell(number, sample) {
  const step = steps[number], name = meta.steps[number].name, key = step.gather ? "_cohort" : names[sample];
  const detail = details.get(`${name}/${key}`);
  const close = element("button", { type: "button", className: "close" }, "Close");
  const panel = byId("cell");
  close.addEventListener("click", () => { panel.hidden = true; byId("heat").focus(); });
  panel.replaceChildren(close, element("h3", {}, `${name} of ${nameOf(step, sample)}`),
    element("dl", { className: "pairs" }, ...figures(step, sample)),
    ...(detail ? detailParts(detail) : []),
    element("p", { className: "commands" }, ...cellCommands(name, key, step, sample, Boolean(detail))));
  panel.hidden = false;
  panel.scrollIntoView({ block: "nearest" });
}

function figures(step, sample) {
  const made = [row("state", stateWords(step, sample))];
  const machine = meta.machines[step.machine[sample]];
  if (step.attempts[sample]) made.push(row("attempts", String(step.attempts[sample])));
  if (step.start[sample]) made.push(row("began", momentOf(step.start[sample])));
  if (step.duration[sample]) made.push(row("took", lasting(numberOf(step.duration[sample]))));
  if (machine) made.push(row("machine", machine));
  const memory = numberOf(step.memory[sample]), asked = numberOf(step.asked[sample]);
  if (memory || asked) made.push(row("peak memory", `${memory ? sizeOf(memory) : "?"} of ${asked ? sizeOf(asked) : "?"}`));
  if (step.cpus[sample]) made.push(row("vCPUs", String(step.cpus[sample])));
  return made;
}

function detailParts(detail) {
  const made = [];
  if (detail.problem) made.push(element("p", { className: "warning" }, detail.problem));
  for (const attempt of detail.attempts) {
    const code = attempt.exit_code === null ? "" : `, exit code ${attempt.exit_code}`;
    made.push(element("h3", {}, `Attempt ${attempt.number}: ${attempt.end}${code}`));
    if (attempt.message) made.push(element("p", {}, attempt.message));
    const times = [attempt.started_at, attempt.stopped_at].filter(Boolean).join(" to ");
    const about = [times, attempt.machine, attempt.native_id].filter(Boolean).join(" · ");
    if (about) made.push(element("p", { className: "note" }, about));
    if (attempt.log_tail) made.push(element("pre", { tabIndex: 0 }, attempt.log_tail));
  }
  if (detail.fingerprint) made.push(element("p", { className: "note" }, `Fingerprint ${detail.fingerprint}`));
  if (detail.inputs.length) {
    made.push(element("details", {}, element("summary", {}, `Inputs (${detail.inputs.length})`),
      element("ul", {}, ...detail.inputs.map((input) => element("li", {}, input)))));
  }
  return made;
}

function cellCommands(name, key, step, sample, known) {
  const of = meta.run ? ` --run ${meta.run}` : "";
  const lines = [`logs ${quoted(key)} ${quoted(name)}${of}`, `status --explain ${quoted(key)}`];
  if (step.gather) lines[1] = `status --explain ${quoted(name)}`;
  if (!known && meta.run) lines.push(`report ${meta.run} --cells ${quoted(`${name}/${key}`)}`);
  return lines.map((line) => commandLine(`${meta.program} ${line}`));
}

// Cells as a table.

function listCells() {
  const pages = Math.max(1, Math.ceil(order.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  byId("page").textContent = `Page ${page + 1} of ${pages.toLocaleString("en")}`;
  byId("before").disabled = page === 0;
  byId("after").disabled = page === pages - 1;
  if (!byId("listing").open) return;
  const shown = Array.from(order.slice(page * PAGE, (page + 1) * PAGE));
  const head = element("tr", {}, ...["sample", ...meta.steps.filter((step) => !step.gather).map((step) => step.name)]
    .map((title) => element("th", { scope: "col" }, title)));
  const rows = shown.map((sample) => {
    const cells = steps.map((step, number) => (step.gather ? null : element("td", {}, cellButton(number, sample))));
    return element("tr", {}, element("th", { scope: "row" }, names[sample]), ...cells);
  });
  byId("cells").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
}

function cellButton(number, sample) {
  const button = element("button", { type: "button", className: "link" }, stateWords(steps[number], sample));
  button.addEventListener("click", () => showCell(number, sample));
  return button;
}

// Downloads.

const field = (value) => String(value).replaceAll("\\", "\\\\").replaceAll("\t", "\\t").replaceAll("\n", "\\n");

function download(name, parts) {
  const url = URL.createObjectURL(new Blob(parts, { type: "text/tab-separated-values" }));
  element("a", { href: url, download: `${name}.tsv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function allCells() {
  const parts = ["step\tsample\tstate\treason\tattempts\tmachine\tstarted_at\tduration_ms\tpeak_memory_mib\tmemory_mib\tcpus\n"];
  for (const [number, step] of steps.entries()) {
    const name = meta.steps[number].name, lines = [];
    for (let at = 0; at < step.state.length; at++) {
      const start = step.start[at] ? new Date(startOf(step.start[at])).toISOString() : "";
      lines.push([name, step.gather ? "_cohort" : names[at], STATES[step.state[at]].words, reasonOf(step.reason[at]),
        step.attempts[at], meta.machines[step.machine[at]], start, numberOf(step.duration[at]),
        numberOf(step.memory[at]), numberOf(step.asked[at]), step.cpus[at]].map(field).join("\t"));
    }
    parts.push(`${lines.join("\n")}\n`);
  }
  download(`cells-${NAME}`, parts);
}

function offerDownloads() {
  for (const table of document.querySelectorAll("table[data-name]")) {
    const button = element("button", { type: "button", className: "download" }, "TSV");
    button.setAttribute("aria-label", `Download the table ${table.dataset.name} as TSV`);
    button.addEventListener("click", () => {
      const lines = [...table.rows].map((line) => [...line.cells].map((cell) => field(cell.textContent)).join("\t"));
      download(`${table.dataset.name}-${NAME}`, [`${lines.join("\n")}\n`]);
    });
    table.parentElement.append(button);
  }
}

// The beginning.

function swatch(colour, sign) {
  const canvas = element("canvas", { width: 32, height: 32 }), context = canvas.getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 32, 32);
  context.fillStyle = colours().ink;
  context.font = "24px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(sign, 16, 17);
  return canvas;
}

function drawLegend() {
  const palette = colours(), seen = STATES.map((_, number) => steps.some((step) => step.state.includes(number)));
  byId("legend").replaceChildren(...STATES.map((state, number) => [state, number]).reverse()
    .filter(([, number]) => seen[number])
    .map(([state, number]) => element("li", {}, swatch(palette.states[number], SIGNS[state.key]), state.words)));
}

function redraw() {
  drawLegend();
  drawMap();
  drawGantt();
}

function arrange() {
  order = sorted(chosen());
  view.from = 0;
  view.to = order.length;
  cursor.at = -1;
  page = 0;
  drawMap();
  listCells();
  const all = order.length === meta.samples;
  point(all ? count(order.length, "sample") : `${order.length.toLocaleString("en")} of ${count(meta.samples, "sample")}`);
  drawGantt();
}

function showCause({ step, reason }) {
  const number = meta.steps.findIndex((one) => one.name === step);
  if (steps[number].gather) showCell(number, 0);
  else {
    const wanted = { step: number, reason: meta.reasons.indexOf(reason) };
    const fitting = [...byId("only").options].find((option) => {
      const value = option.value ? JSON.parse(option.value) : {};
      return value.step === wanted.step && (value.reason || wanted.reason) === wanted.reason
        && STATES[value.state].key === (reason === "cancelled" ? "cancelled" : "failed");
    });
    if (fitting) byId("only").value = fitting.value;
    byId("filter").value = "";
    arrange();
  }
  byId("map").scrollIntoView();
}

function listen() {
  let timer = 0;
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(arrange, 120); });
  for (const id of ["only", "sort"]) byId(id).addEventListener("change", arrange);
  byId("colour").addEventListener("change", drawMap);
  byId("listing").addEventListener("toggle", listCells);
  byId("before").addEventListener("click", () => { page -= 1; listCells(); });
  byId("after").addEventListener("click", () => { page += 1; listCells(); });
  byId("all-cells").addEventListener("click", allCells);
  for (const button of document.querySelectorAll("button.show")) {
    button.addEventListener("click", () => showCause(button.dataset));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  listenToMap();
  listenToGantt();
}

async function begin() {
  offerDownloads();
  if (!byId("heat")) return;
  const unpacking = meta.steps.map((step, number) => unpacked(`step-${number}`));
  const text = new TextDecoder().decode(await unpacked("names"));
  names = text ? text.split("\n") : [];
  for (const [number, step] of meta.steps.entries()) {
    steps.push({ gather: step.gather, ...columnsOf(await unpacking[number], step.cells) });
  }
  fillChoices();
  drawLegend();
  listen();
  arrange();
}

begin().then(() => { document.body.dataset.ready = "yes"; }, (error) => {
  const words = `The cells could not be unpacked (${error.message}). Use a browser of 2023 or later.`;
  document.querySelector("main").prepend(element("p", { className: "warning" }, words));
  document.body.dataset.ready = "failed";
});
