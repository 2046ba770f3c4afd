"use strict";
// The page: what is shown, what is counted, and what is decided.
(() => {
  const find = (id) => document.getElementById(id);
  const hundredth = (share) => (100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0);
  const number = (count) => count.toLocaleString("en");
  const MARKS = { normal: "normal after all", anomaly: "a flaw" };

  class Page {
    constructor(source) {
      this.source = source;
      this.marks = new Map();
    }

    async start() {
      find("loading").hidden = find("help-open").hidden = false;
      const head = await this.source.load();
      this.head = head;
      this.order = Uint32Array.from(head.scores, (_, index) => index)
        .sort((one, other) => head.scores[one] - head.scores[other]);
      this.sorted = Float32Array.from(head.scores).sort();
      this.truth = Int8Array.from(head.truth);
      for (const [index, mark] of head.marks) this.marks.set(index, mark);
      this.alpha = head.threshold;
      this.tiles = new desk.Tiles(find("tiles"), this);
      this.viewer = new desk.Viewer(find("viewer"), this);
      this.histogram = new desk.Histogram(find("histogram"), (value, exact) => {
        this.setThreshold(exact ? value : Number(value.toPrecision(5)));
      });
      if (this.source.live) {
        this.trial = new desk.Trial(find("trial"), this);
        this.mask = new desk.Mask(this.viewer, this);
      }
      this.fill();
      this.listen();
      this.recount();
      this.filter();
      this.setThreshold(head.threshold);
      find("work").hidden = false;
      find("loading").hidden = true;
      this.tiles.layout();
      this.histogram.draw();
      if (head.stale) {
        this.say(`${head.stale} marked pictures have changed since, and their marks do not count.`);
      }
    }

    fill() {
      const head = this.head;
      if (this.source.live) document.title = `${head.title} – desk`;
      find("title").textContent = head.title;
      const options = (select, names, empty) => names.forEach((name, k) => {
        const option = desk.element("option", "", select, name || empty);
        option.value = k;
      });
      options(find("kind"), head.kinds, "(no kind)");
      // What all folders have in common says nothing.
      const parts = head.folders.map((folder) => folder.split("/"));
      let common = 0;
      while (parts[0].length > common + 1
        && parts.every((each) => each.length > common + 1 && each[common] === parts[0][common])) common++;
      this.folders = parts.map((each) => each.slice(common).join("/"));
      options(find("folder"), this.folders, "/");
      find("kind-box").hidden = head.kinds.length < 2;
      find("folder-box").hidden = head.folders.length < 2;
      find("maps-box").hidden = !head.has_maps;
      find("lost").hidden = !head.lost || Boolean(find("report")); // whose text says it
      find("lost").textContent = head.lost || "";
      for (const each of document.querySelectorAll("[data-live]")) each.toggleAttribute("hidden", !this.source.live);
      for (const each of document.querySelectorAll("[data-frozen]")) each.hidden = this.source.live;
      this.tiles.beside = head.has_maps && find("beside").checked;
      find("tiles").classList.toggle("paired", this.tiles.beside);
      find("kinds").open = find("filters").open = innerWidth > 800;
      this.blended();
    }

    listen() {
      for (const id of ["sort", "decision", "kind", "folder", "marked"]) {
        find(id).addEventListener("change", () => this.filter(true));
      }
      find("blend").addEventListener("input", () => this.blended());
      find("viewer-blend").addEventListener("input", (event) => {
        find("blend").value = event.target.value;
        this.blended();
      });
      find("beside").addEventListener("change", (event) => {
        this.tiles.beside = event.target.checked;
        find("tiles").classList.toggle("paired", event.target.checked);
        this.tiles.layout();
      });
      find("threshold").addEventListener("change", (event) => {
        const value = Number(event.target.value.replace(",", "."));
        if (event.target.value.trim() && Number.isFinite(value)) this.setThreshold(value);
        else this.setThreshold(this.alpha);
      });
      find("write").addEventListener("click", () => this.write(() => this.source.write(this.alpha)));
      find("undo").addEventListener("click", () => this.write(() => this.source.undo()));
      find("filters").addEventListener("toggle", () => this.tiles.soon());
      find("said").addEventListener("click", () => this.say(""));
      find("reset").addEventListener("click", () => {
        this.setThreshold(this.head.threshold);
        find("histogram").focus({ preventScroll: true }); // for the button goes
      });
      find("help-open").addEventListener("click", () => find("help").showModal());
      find("help-close").addEventListener("click", () => find("help").close());
      document.addEventListener("keydown", (event) => this.key(event));
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (find("help").open || find("trial").open) return;
      const typing = event.target.matches("input, select, textarea");
      if (typing && !(event.target.type === "range" && event.key.length === 1)) return;
      // Keys count where pictures have the focus; or nothing has, and there is nothing else to read.
      const ours = this.viewer.open || event.target === find("tiles")
        || (event.target === document.body && !find("report"));
      const pressed = event.target.closest("button, summary, a");
      const acts = {
        n: () => this.mark("normal"), f: () => this.mark("anomaly"), u: () => this.mark(null),
        "?": () => find("help").showModal(),
      };
      if (acts[event.key] && (ours || event.key === "?")) {
        event.preventDefault();
        acts[event.key]();
      } else if (!ours || this.viewer.open || pressed) {
        return;
      } else if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        this.open();
      } else if (this.tiles.key(event.key)) {
        event.preventDefault();
        find("tiles").focus({ preventScroll: true });
      }
    }

    // What a picture is taken for: as somebody marked it, else by its folder.
    known(index) {
      const mark = this.marks.get(index);
      if (mark) return mark === "normal" ? desk.NORMAL : desk.ANOMALY;
      return this.head.truth[index];
    }

    describe(index) {
      const score = this.head.scores[index], called = score > this.alpha;
      const known = this.truth[index], mark = this.marks.get(index);
      let tag = called ? "anomaly" : "normal", tone = called ? "hot" : "";
      if (called && known === desk.NORMAL) [tag, tone] = ["false alarm", "wrong"];
      if (called && known === desk.ANOMALY) tag = "found";
      if (!called && known === desk.ANOMALY) [tag, tone] = ["missed", "wrong"];
      const kind = this.head.kinds[this.head.kind[index]];
      const parts = [`score ${score.toPrecision(4)}`, tag];
      if (kind) parts.push(`kind ${kind}`);
      if (mark) parts.push(`marked: ${MARKS[mark]}`);
      return {
        called, tag, tone, score: score.toPrecision(4), long: parts.join(", "),
        mark: mark ? { normal: "✓ normal", anomaly: "⚑ flaw" }[mark] : "", markTone: mark || "",
      };
    }

    // The folder and name of a picture: all that tells it from others, or the last two parts.
    place(index, name, short = false) {
      const folder = this.folders[this.head.folder[index]];
      if (!folder || (short && this.folders.length < 2)) return name;
      return `${short ? folder.split("/").pop() : folder}/${name}`;
    }

    recount() {
      const head = this.head;
      for (let i = 0; i < head.count; i++) this.truth[i] = this.known(i);
      this.counts = new desk.Counts(
        head.scores, this.truth, head.kind, head.kinds, head.independent);
      this.histogram.show(this.counts, this.sorted);
      const marked = [...this.marks.keys()].some((index) => head.truth[index] === desk.UNKNOWN);
      find("chosen-note").hidden = !marked;
      find("marks-note").hidden = !find("report") || !this.marks.size;
      this.tell();
    }

    setThreshold(value) {
      this.alpha = Math.fround(value);
      this.histogram.set(this.alpha, this.head.threshold);
      this.tell();
      if (find("decision").value === "all" && find("sort").value !== "near") this.tiles.soon();
      else this.filter();
    }

    tell() {
      const found = this.counts.at(this.alpha, this.head.z);
      const line = (id, side, what) => {
        find(id).hidden = !side.total;
        const [low, high] = side.interval;
        find(`${id}-count`).textContent = `${number(side.count)} of ${number(side.total)} ${what}`;
        find(`${id}-share`).textContent =
          `${hundredth(side.share)} % (${hundredth(low)}–${hundredth(high)})`;
      };
      line("alarms", found.alarms, "normal");
      line("finds", found.finds, "anomalies");
      line("unknown", found.unknown, "unknown");
      const kinds = found.kinds.filter((each) => each.name);
      find("kinds").hidden = kinds.length < 2;
      const rows = find("kind-rows");
      while (rows.children.length > kinds.length) rows.lastChild.remove();
      kinds.forEach((each, k) => {
        let row = rows.children[k];
        if (!row) {
          row = desk.element("tr", "", rows);
          desk.element("th", "", row).scope = "row";
          desk.element("td", "", row);
        }
        row.firstChild.textContent = each.name;
        row.lastChild.textContent = `${each.count} of ${each.total}`;
      });
      const same = this.alpha === Math.fround(this.head.threshold);
      find("threshold").value = desk.written(this.alpha);
      find("stored").textContent = same
        ? "This is the threshold that is stored."
        : `Stored is ${desk.written(this.head.threshold)} (dashed).`;
      find("reset").hidden = same;
      const readOnly = Boolean(this.head.read_only);
      find("write").disabled = same || readOnly || this.writing;
      find("undo").disabled = this.head.earlier === null || readOnly || this.writing;
      find("undo").textContent = this.head.earlier === null
        ? "Undo" : `Undo: back to ${desk.written(this.head.earlier)}`;
      find("why-not").hidden = !readOnly;
      find("why-not").textContent = this.head.read_only || "";
      find("command").textContent = `${this.head.command} ${desk.exact(this.alpha)}`;
      find("histogram").setAttribute("aria-valuetext",
        `${desk.written(this.alpha)}: ${found.alarms.count} of ${found.alarms.total} normal above, `
        + `${found.finds.count} of ${found.finds.total} anomalies found`);
    }

    // Which picture comes k-th, for k = 0, 1, 2 and so on.
    ordered(sort) {
      const { scores, count } = this.head, order = this.order;
      if (sort === "down") return (k) => order[count - 1 - k];
      if (sort === "up") return (k) => order[k];
      let high = count - desk.above(this.sorted, this.alpha), low = high - 1;
      return () => {
        const up = high < count ? scores[order[high]] - this.alpha : Infinity;
        const down = low >= 0 ? this.alpha - scores[order[low]] : Infinity;
        return up < down ? order[high++] : order[low--];
      };
    }

    filter(fromTop = false) {
      const value = (id) => find(id).value;
      const [decision, kind, folder, marked] = ["decision", "kind", "folder", "marked"].map(value);
      const { scores, count } = this.head, { alpha, truth, marks } = this;
      const decided = {
        all: () => true,
        anomaly: (i) => scores[i] > alpha,
        normal: (i) => !(scores[i] > alpha),
        alarms: (i) => scores[i] > alpha && truth[i] === desk.NORMAL,
        missed: (i) => !(scores[i] > alpha) && truth[i] === desk.ANOMALY,
      }[decision];
      const markedAs = {
        all: () => true,
        any: (i) => marks.has(i),
        none: (i) => !marks.has(i),
        normal: (i) => marks.get(i) === "normal",
        anomaly: (i) => marks.get(i) === "anomaly",
      }[marked];
      const kindIs = kind === "" ? null : Number(kind);
      const folderIs = folder === "" ? null : Number(folder);
      const shown = new Uint32Array(count), order = this.ordered(value("sort"));
      let found = 0;
      for (let k = 0; k < count; k++) {
        const i = order(k);
        if (!decided(i) || !markedAs(i)) continue;
        if (kindIs !== null && this.head.kind[i] !== kindIs) continue;
        if (folderIs !== null && this.head.folder[i] !== folderIs) continue;
        shown[found++] = i;
      }
      if (fromTop) {
        this.tiles.current = 0;
        const top = find("tiles").getBoundingClientRect().top - this.covered() - 60;
        if (top < 0) scrollBy(0, top);
      }
      this.tiles.show(shown.subarray(0, found));
      find("how-many").textContent = found === count
        ? `${number(count)} pictures` : `${number(found)} of ${number(count)} pictures`;
      find("nothing").hidden = found > 0;
    }

    blended() {
      const blend = Number(find("blend").value) / 100;
      find("viewer-blend").value = find("blend").value;
      document.documentElement.style.setProperty("--blend", blend);
      this.tiles.blend = blend;
      this.tiles.load();
    }

    // How much of the window's top is covered by what sticks there.
    covered() {
      const panel = find("sticky");
      if (getComputedStyle(panel).position !== "sticky" || innerWidth > 800) return 0;
      return panel.getBoundingClientRect().height;
    }

    open() {
      if (this.tiles.shown.length) this.viewer.show();
    }

    moved() {
      if (this.viewer.open) this.viewer.update();
    }

    closed() {
      find("tiles").focus({ preventScroll: true });
      this.tiles.reveal();
    }

    async mark(mark) {
      const index = this.tiles.index;
      if (index === undefined || !this.source.live) return;
      if ((this.marks.get(index) || null) === mark) return;
      try {
        const done = await this.source.mark(index, mark, this.alpha);
        if (done.mark) this.marks.set(index, done.mark);
        else this.marks.delete(index);
        const name = this.source.name(index, () => {}) || "the picture";
        this.say(done.mark ? `Marked ${name}: ${MARKS[done.mark]}.` : `Unmarked ${name}.`);
      } catch (error) {
        this.say(error.message, true);
        return;
      }
      this.recount();
      this.filter();
      this.moved();
    }

    async write(ask) {
      this.writing = true;
      this.tell();
      this.say("Writing…");
      try {
        const { said, threshold, earlier } = await ask();
        Object.assign(this.head, { threshold, earlier });
        this.say(said.join("\n"));
      } catch (error) {
        this.say(error.message, true);
      }
      this.writing = false;
      this.setThreshold(this.head.threshold);
      this.tiles.load(); // maps are drawn on the new scale
    }

    say(text, wrong = false) {
      for (const place of [find("said"), find("viewer-said"), find("trial-said")]) {
        place.textContent = text;
        place.classList.toggle("wrong", wrong);
      }
      // On a phone it lies over the pictures.
      clearTimeout(this.fading);
      if (text && !wrong && innerWidth <= 800) this.fading = setTimeout(() => this.say(""), 8000);
    }
  }

  const page = new Page(desk.openSource());
  desk.page = page;
  page.start().catch((error) => {
    find("loading").textContent = error.message;
  });
})();
