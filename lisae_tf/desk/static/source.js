"use strict";
// Where the page's data come from: a server, or a document frozen into the page.
globalThis.desk = globalThis.desk || {};

desk.unpacked = (text, Type) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Type(bytes.buffer);
};

desk.opened = (head) => ({
  ...head,
  scores: desk.unpacked(head.scores, Float32Array),
  truth: desk.unpacked(head.truth, Int8Array),
  kind: desk.unpacked(head.kind, Int32Array),
  folder: desk.unpacked(head.folder, Int32Array),
});

desk.LiveSource = class {
  constructor() {
    this.live = true;
    this.pages = new Map();
    this.names = new Map();
  }

  async ask(path, sent) {
    const [kind, body] = sent instanceof Blob
      ? ["application/octet-stream", sent] : ["application/json", JSON.stringify(sent)];
    const options = sent === undefined ? {} : {
      method: "POST", headers: { "Content-Type": kind }, body,
    };
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error("The desk's server has ended; start it again.");
    }
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    return found;
  }

  async load() {
    this.head = desk.opened(await this.ask("data"));
    return this.head;
  }

  // The name of a picture if it is known already; else it is fetched, with its neighbours.
  name(index, then) {
    const size = this.head.page, page = Math.floor(index / size);
    const known = this.names.get(page);
    if (known) return known[index % size];
    if (!this.pages.has(page)) {
      const asked = this.ask(`names/${page}?${this.head.session}`);
      this.pages.set(page, asked);
      asked.then((names) => this.names.set(page, names), () => this.pages.delete(page));
    }
    this.pages.get(page).then(then, () => {});
    return null;
  }

  thumb(index) { return `thumb/${index}?${this.head.session}`; }
  picture(index) { return `picture/${index}?${this.head.session}`; }
  // Maps are drawn on the scale of the threshold that is stored.
  map(index) {
    return this.head.has_maps ? `map/${index}?${this.head.session}&${this.head.threshold}` : null;
  }

  mark(index, mark, threshold) { return this.ask("mark", { index, mark, threshold }); }
  write(threshold) { return this.ask("threshold", { threshold }); }
  undo() { return this.ask("undo", {}); }
  mask(index, polygons) { return this.ask("mask", { index, polygons }); }

  // A picture that is tried, read, or read and scored.
  tried(file, how) {
    return this.ask(`try/${how}?name=${encodeURIComponent(file.name)}`, file);
  }
};

// The same without a server: names, thumbnails and maps are in the page, and nothing is written.
// A thumbnail that is null is of a picture that is gone; an empty one was left out of the file.
desk.FrozenSource = class {
  constructor(document) {
    this.live = false;
    this.document = document;
  }

  async load() {
    this.head = desk.opened(this.document);
    return this.head;
  }

  name(index) { return this.document.names[index]; }
  thumb(index) { return this.document.thumbs[index]; }
  picture(index) { return this.document.thumbs[index]; }
  map(index) { return this.document.maps ? this.document.maps[index] : null; }
};

desk.openSource = () => {
  const frozen = document.getElementById("frozen");
  return frozen ? new desk.FrozenSource(JSON.parse(frozen.textContent)) : new desk.LiveSource();
};
