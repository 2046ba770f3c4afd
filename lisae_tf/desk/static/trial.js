"use strict";
// A picture that somebody tries: read by the server as every picture is, and scored by the page
// itself where it can be.
globalThis.desk = globalThis.desk || {};

// A map as a picture, red where the error is, as desk/maps.py draws it.
desk.drawnMap = ({ errors, size: [height, width] }, picture, alpha, highestShare) => {
  const highest = errors.reduce((one, other) => Math.max(one, other), 0);
  const full = alpha > 0 ? alpha * (2 + 8 * highestShare) : Math.max(highest, 1e-12);
  const beyond = alpha > 0 ? highest / full : 0;
  const pixels = new ImageData(width, height);
  errors.forEach((error, k) => {
    const times = Math.max(error / full, 1);
    pixels.data[4 * k] = 255;
    pixels.data[4 * k + 1] = beyond > 1 ? 255 * Math.log(times) / Math.log(Math.max(beyond, 4)) : 0;
    pixels.data[4 * k + 3] = 255 * Math.min(1, Math.max(0, error / full));
  });
  const canvas = (wide, high) => Object.assign(
    document.createElement("canvas"), { width: wide, height: high },
  );
  const small = canvas(width, height), scale = Math.min(1, 256 / Math.max(...picture));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const large = canvas(...picture.map((side) => Math.max(1, Math.round(scale * side))).reverse());
  large.getContext("2d").drawImage(small, 0, 0, large.width, large.height);
  return large.toDataURL();
};

desk.Trial = class {
  constructor(dialog, page) {
    this.dialog = dialog;
    this.page = page;
    this.head = page.head.trial;
    this.why = this.head.why;
    this.here = Boolean(this.head.runtime);
    this.number = this.asked = 0; // of the last picture, and of the last one for the worker
    const find = (name) => dialog.querySelector(`[data-is=${name}]`);
    this.parts = Object.fromEntries(["picture", "over", "map", "map-pane", "name", "said", "who", "notes"]
      .map((name) => [name, find(name)]));
    const input = document.getElementById("try-file");
    const ask = () => input.click();
    document.getElementById("try").addEventListener("click", ask);
    find("another").addEventListener("click", ask);
    find("close").addEventListener("click", () => dialog.close());
    input.addEventListener("change", () => {
      this.take(input.files);
      input.value = ""; // so that the same file may be chosen again
    });
    const dragged = (event) => [...event.dataTransfer.types].includes("Files");
    for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
      document.addEventListener(name, (event) => {
        if (!dragged(event)) return;
        event.preventDefault();
        document.body.classList.toggle("dropping", over);
        if (name === "drop") this.take(event.dataTransfer.files);
      });
    }
  }

  async take(files) {
    const file = files[0], number = ++this.number;
    if (!file) return;
    this.page.say(`Scoring ${file.name}…`);
    try {
      const found = await this.scored(file);
      if (number !== this.number) return; // another one was asked for
      this.page.say(files.length > 1 ? "One picture is tried at a time; this is the first." : "");
      this.show(file.name, found);
    } catch (error) {
      if (number === this.number) this.page.say(error.message, true);
    }
  }

  async scored(file) {
    if (file.size > this.head.most) {
      throw new Error(`${file.name} is larger than ${this.head.most >> 20} MB; make it smaller.`);
    }
    if (this.here) {
      const found = await this.page.source.tried(file, "read");
      try {
        return { ...found, ...await this.run(found), by: "page" };
      } catch (error) {
        this.here = false;
        this.why = `ONNX Runtime Web cannot run this model (${error.message.split("\n")[0]})`;
      }
    }
    return { ...await this.page.source.tried(file, "score"), by: "server" };
  }

  // The score and the map of a picture by the model, in the page's worker.
  async run(found) {
    this.worker = this.worker || new Worker("static/worker.js", { type: "module" });
    const { shape, float, highest_share: share } = this.head, number = ++this.asked;
    const answer = await new Promise((done, fail) => {
      const heard = ({ data }) => {
        if (data.number !== number) return; // that of another picture
        this.worker.removeEventListener("message", heard);
        done(data);
      };
      this.worker.addEventListener("message", heard);
      this.worker.addEventListener("error", () => fail(new Error("it does not start")));
      const pixels = desk.unpacked(found.pixels, Uint8Array);
      this.worker.postMessage({ number, pixels, shape, float, mapped: share !== null });
    });
    if (answer.error) throw new Error(answer.error);
    const map = answer.map && desk.drawnMap(
      answer.map, [found.height, found.width], this.page.head.threshold, share,
    );
    return { score: answer.score, map };
  }

  show(name, found) {
    this.found = found;
    const { parts, page } = this, called = Math.fround(found.score) > page.alpha;
    const give = (image, address) => {
      if (address) image.src = address;
      else image.removeAttribute("src");
      image.classList.toggle("there", Boolean(address));
    };
    give(parts.picture, found.picture);
    give(parts.over, found.map);
    give(parts.map, found.map);
    parts["map-pane"].hidden = !found.map;
    parts.name.textContent = name;
    parts.said.textContent = `score ${found.score.toPrecision(4)}, called `
      + `${called ? "anomalous" : "normal"} at the threshold ${desk.written(page.alpha)}`;
    parts.who.textContent = found.by === "page"
      ? `Scored in this page by ONNX Runtime Web ${this.head.runtime}.`
      : `Scored by the server: ${this.why}.`;
    parts.notes.textContent = found.notes.map((note) => `${note}.`).join("\n");
    if (!this.dialog.open) this.dialog.showModal();
  }
};
