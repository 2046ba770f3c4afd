"use strict";
// Normal pictures upwards, anomalies downwards, and a threshold that is dragged across.
globalThis.desk = globalThis.desk || {};

desk.svg = (name, attributes, parent) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
};

// A number as people write it: five digits, no more.
desk.written = (value) => String(Number(value.toPrecision(5)));

// The shortest number that means the same threshold, for a command line.
desk.exact = (value) => {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return String(rounded);
  }
  return String(Number(value.toPrecision(9)));
};

desk.Histogram = class {
  // `box` is the element with the slider's role; `changed` takes a new threshold.
  constructor(box, changed) {
    this.box = box;
    this.changed = changed;
    this.plot = desk.svg("svg", { "aria-hidden": "true", focusable: "false" }, box);
    this.bars = desk.svg("g", {}, this.plot);
    this.stored = desk.svg("line", { class: "stored" }, this.plot);
    this.line = desk.svg("line", { class: "threshold" }, this.plot);
    this.grip = desk.svg("rect", { class: "grip", width: 14, height: 18, rx: 4 }, this.plot);
    new ResizeObserver(() => this.draw()).observe(box);
    box.addEventListener("pointerdown", (event) => this.grab(event));
    box.addEventListener("pointermove", (event) => {
      if (box.hasPointerCapture(event.pointerId)) this.drag(event);
    });
    box.addEventListener("keydown", (event) => this.key(event));
  }

  // Counts by what pictures are, and all scores ascending.
  show(counts, scores) {
    this.counts = counts;
    if (this.sorted !== scores) {
      this.sorted = scores;
      const [low, high] = [scores[0], scores[scores.length - 1]];
      // Where a few pictures stand far off, the others must not end in one bar.
      this.log = low > 0 && high > 20 * scores[Math.floor(scores.length / 10)];
      const [first, last] = [this.scaled(low), this.scaled(high)];
      const margin = 0.03 * (last - first) || Math.abs(first) || 1;
      this.first = first - margin;
      this.last = last + margin;
      // A score is no error where it may be below 0.
      if (!this.log && low >= 0) this.first = Math.max(0, this.first);
    }
    this.draw();
  }

  scaled(value) { return this.log ? Math.log(Math.max(value, 1e-30)) : value; }
  unscaled(value) { return this.log ? Math.exp(value) : value; }
  x(value) {
    const share = (this.scaled(value) - this.first) / (this.last - this.first);
    return Math.min(1, Math.max(0, share)) * this.width;
  }
  value(x) {
    const share = Math.min(1, Math.max(0, x / this.width));
    return this.unscaled(this.first + share * (this.last - this.first));
  }

  draw() {
    const { width, height } = this.box.getBoundingClientRect();
    if (!this.counts || !width) return;
    this.width = width;
    this.height = height;
    const bins = Math.max(8, Math.min(80, Math.floor(width / 6)));
    const bottom = height - 18; // below it the scale is written
    const sides = [this.counts.normal, this.counts.anomaly, this.counts.unknown]
      .map((sorted) => this.binned(sorted, bins));
    const [normal, anomaly, unknown] = sides;
    // Of few among many something must be seen: heights are square roots.
    const up = Math.sqrt(Math.max(1, ...normal.map((count, k) => count + unknown[k])));
    const down = Math.sqrt(Math.max(0, ...anomaly));
    const zero = down ? bottom * Math.max(0.35, Math.min(0.7, up / (up + down))) : bottom - 1;
    this.bars.replaceChildren();
    const step = width / bins;
    const bar = (k, top, tall, kind) => {
      if (tall <= 0) return;
      desk.svg("rect", {
        class: kind, x: k * step + 0.5, y: top, width: Math.max(1, step - 1),
        height: Math.max(1.5, tall),
      }, this.bars);
    };
    for (let k = 0; k < bins; k++) {
      const both = Math.sqrt(normal[k] + unknown[k]) / up * (zero - 4);
      const own = both * (normal[k] / ((normal[k] + unknown[k]) || 1));
      bar(k, zero - own, own, "normal");
      bar(k, zero - both, both - own, "unknown");
      if (down) bar(k, zero + 1, Math.sqrt(anomaly[k]) / down * (bottom - zero - 3), "anomaly");
    }
    desk.svg("line", { class: "axis", x1: 0, x2: width, y1: zero + 0.5, y2: zero + 0.5 }, this.bars);
    const ticks = Math.max(2, Math.floor(width / 90));
    for (let k = 0; k <= ticks; k++) {
      const x = Math.min(width - 3, Math.max(3, width * k / ticks));
      const anchor = k === 0 ? "start" : k === ticks ? "end" : "middle";
      desk.svg("text", { x, y: height - 4, "text-anchor": anchor }, this.bars).textContent =
        String(Number(this.value(width * k / ticks).toPrecision(2)));
    }
    this.move();
  }

  binned(sorted, bins) {
    const found = [];
    let before = sorted.length;
    for (let k = 1; k <= bins; k++) {
      const edge = this.unscaled(this.first + k / bins * (this.last - this.first));
      const now = k === bins ? 0 : desk.above(sorted, edge);
      found.push(before - now);
      before = now;
    }
    return found;
  }

  set(alpha, stored) {
    this.alpha = alpha;
    this.storedAlpha = stored;
    this.move();
  }

  move() {
    if (this.width === undefined || this.alpha === undefined) return;
    const place = (line, value) => {
      const x = this.x(value);
      for (const [key, at] of [["x1", x], ["x2", x], ["y1", 0], ["y2", this.height - 18]]) {
        line.setAttribute(key, at);
      }
      return x;
    };
    place(this.stored, this.storedAlpha);
    const x = place(this.line, this.alpha);
    this.grip.setAttribute("x", Math.min(this.width - 14, Math.max(0, x - 7)));
    this.grip.setAttribute("y", 0);
    const box = this.box;
    box.setAttribute("aria-valuemin", desk.written(this.unscaled(this.first)));
    box.setAttribute("aria-valuemax", desk.written(this.unscaled(this.last)));
    box.setAttribute("aria-valuenow", desk.written(this.alpha));
  }

  grab(event) {
    if (event.button) return;
    this.box.setPointerCapture(event.pointerId);
    this.box.focus({ preventScroll: true });
    this.drag(event);
    event.preventDefault();
  }

  drag(event) {
    this.changed(this.value(event.clientX - this.box.getBoundingClientRect().left));
  }

  // An arrow goes past one picture, a page past a twentieth of them.
  key(event) {
    const steps = {
      ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1,
      PageUp: Math.ceil(this.sorted.length / 20), PageDown: -Math.ceil(this.sorted.length / 20),
      Home: -Infinity, End: Infinity,
    };
    const step = steps[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const last = this.sorted.length - 1;
    const below = last - desk.above(this.sorted, this.alpha); // the highest that is not above
    let at = Math.min(last, Math.max(-1, below + step));
    // Equal scores are passed together.
    while (step > 0 && at < last && this.sorted[at + 1] === this.sorted[at]) at++;
    if (step < 0) while (at >= 0 && this.sorted[at] === this.sorted[below]) at--;
    this.changed(at < 0 ? this.unscaled(this.first) : this.sorted[at], true);
  }
};
