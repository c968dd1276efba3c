// Which samples are shown, and in which order.

function chosen() {
  const part = byId("filter").value.trim().toLowerCase();
  const only = byId("only").value ? JSON.parse(byId("only").value) : null;
  const kept = new Uint32Array(meta.samples);
  let length = 0;
  for (let sample = 0; sample < meta.samples; sample++) {
    if (part && !names[sample].toLowerCase().includes(part)) continue;
    if (only && !fits(sample, only)) continue;
    kept[length++] = sample;
  }
  return kept.slice(0, length);
}

function fits(sample, only) {
  return steps.some((step, number) => !step.gather && (only.step === undefined || only.step === number)
    && step.state[sample] === only.state && (only.reason === undefined || step.reason[sample] === only.reason));
}

function sorted(kept) {
  const by = byId("sort").value;
  if (by === "name") return kept.sort((one, other) => (names[one] < names[other] ? -1 : 1));
  if (by === "list") return kept;
  const keys = new Float64Array(meta.samples);
  for (const [number, step] of steps.entries()) {
    if (step.gather) continue;
    for (let sample = 0; sample < meta.samples; sample++) {
      if (by === "time") keys[sample] += numberOf(step.duration[sample]);
      else {
        // The state first, then the earliest step that has it, then the reason.
        const key = step.state[sample] * 2 ** 20 + (4095 - number) * 256 + step.reason[sample];
        if (key > keys[sample]) keys[sample] = key;
      }
    }
  }
  return kept.sort((one, other) => keys[other] - keys[one] || one - other);
}

function fillChoices() {
  const choices = [];
  for (const [number, step] of steps.entries()) {
    const counts = new Map();
    for (let at = 0; at < step.state.length && !step.gather; at++) {
      const key = step.state[at] * 256 + (step.state[at] === FAILED ? step.reason[at] : 0);
      counts.set(key, (counts.get(key) || 0) + 1);
    }
    for (const [key, cells] of counts) choices.push({ number, state: key >> 8, reason: key & 255, cells });
  }
  choices.sort((one, other) => other.state - one.state || other.cells - one.cells);
  for (const { number, state, reason, cells } of choices) {
    const value = { step: number, state, ...(reason ? { reason } : {}) };
    const why = reason ? `: ${reasonOf(reason)}` : "";
    const words = `${meta.steps[number].name} ${STATES[state].words}${why} (${cells.toLocaleString("en")})`;
    byId("only").append(element("option", { value: JSON.stringify(value) }, words));
  }
}
