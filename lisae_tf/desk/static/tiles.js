"use strict";
// All pictures as tiles, of which only those in sight are in the page.
globalThis.desk = globalThis.desk || {};

desk.element = (name, className, parent, text) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};

// Browsers limit the height of an element; beyond this the end cannot be scrolled to.
desk.TALLEST = 15e6;
// So many are printed.
desk.PRINTED = 60;

desk.Tiles = class {
  // `box` has the role of a list; `page` tells of pictures: `source`, `describe(index)`.
  constructor(box, page) {
    this.box = box;
    this.page = page;
    this.shown = new Uint32Array(0);
    this.tiles = new Map(); // by place
    this.spare = [];
    this.current = 0; // place
    this.beside = false;
    this.blend = 0;
    new ResizeObserver(() => this.layout()).observe(box);
    addEventListener("scroll", () => this.scrolled(), { passive: true });
    addEventListener("resize", () => this.soon());
    addEventListener("beforeprint", () => this.print(true));
    addEventListener("afterprint", () => this.print(false));
    box.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (!tile) return;
      this.moveTo(Number(tile.dataset.place), false);
      if (event.target.closest(".views")) this.page.open();
    });
    box.addEventListener("focus", () => this.box.classList.add("focused"));
    box.addEventListener("blur", () => this.box.classList.remove("focused"));
  }

  get index() { return this.shown[this.current]; }

  show(shown) {
    this.shown = shown;
    this.current = Math.min(this.current, Math.max(0, shown.length - 1));
    this.layout();
  }

  layout() {
    const width = this.box.clientWidth;
    if (!width) return;
    const gap = 8, least = this.beside ? 180 : 130;
    this.columns = Math.max(1, Math.floor((width + gap) / (least + gap)));
    this.tileWidth = (width + gap) / this.columns - gap;
    const views = this.beside ? 2 : 1;
    this.view = Math.floor((this.tileWidth - 10 - (views - 1) * 4) / views);
    this.tileHeight = this.view + 54;
    this.gap = gap;
    const rows = Math.ceil(this.shown.length / this.columns);
    const tall = rows * (this.tileHeight + gap);
    this.box.style.height = `${Math.min(tall, desk.TALLEST)}px`;
    this.box.style.setProperty("--view", `${this.view}px`);
    this.render();
  }

  scrolled() {
    this.last = performance.now();
    this.soon();
  }

  soon() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.render();
    });
  }

  print(printed) {
    this.printed = printed;
    this.render();
    this.load();
  }

  // The places in sight, and a row more on each side.
  range() {
    if (this.printed) return [0, Math.min(desk.PRINTED, this.shown.length)];
    const top = this.box.getBoundingClientRect().top, step = this.tileHeight + this.gap;
    const first = Math.max(0, Math.floor(-top / step) - 1) * this.columns;
    const last = (Math.ceil((innerHeight - top) / step) + 1) * this.columns;
    return [Math.min(first, this.shown.length), Math.min(Math.max(first, last), this.shown.length)];
  }

  render() {
    if (!this.columns) return;
    const [first, last] = this.range();
    for (const [place, tile] of this.tiles) {
      if (place < first || place >= last) this.drop(place, tile);
    }
    for (let place = first; place < last; place++) this.place(place);
    const current = this.tiles.get(this.current);
    if (current) this.box.setAttribute("aria-activedescendant", current.id);
    else this.box.removeAttribute("aria-activedescendant");
    // While a wheel turns, pictures are passed by that nobody looks at.
    if (performance.now() - (this.last || 0) > 90) this.load();
    else {
      clearTimeout(this.later);
      this.later = setTimeout(() => this.load(), 100);
    }
  }

  drop(place, tile) {
    this.tiles.delete(place);
    for (const image of tile.images) image.removeAttribute("src"); // ends its request
    tile.index = -1;
    tile.hidden = true;
    if (this.spare.length < 200) this.spare.push(tile);
    else tile.remove();
  }

  make() {
    const spare = this.spare.pop();
    if (spare) {
      spare.hidden = false;
      return spare;
    }
    const tile = desk.element("div", "tile", this.box);
    tile.setAttribute("role", "option");
    const views = desk.element("div", "views", tile);
    tile.view = desk.element("div", "view", views);
    const picture = desk.element("img", "picture", tile.view);
    const map = desk.element("img", "map", tile.view);
    const beside = desk.element("img", "map", desk.element("div", "view beside", views));
    tile.images = [picture, map, beside];
    for (const image of tile.images) {
      image.alt = "";
      image.decoding = "async";
      image.draggable = false;
      image.addEventListener("load", () => {
        image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 64);
        image.classList.add("there");
      });
      image.addEventListener("error", () => {
        if (image === picture && image.getAttribute("src")) tile.classList.add("gone");
      });
    }
    const line = desk.element("div", "line", tile);
    tile.score = desk.element("span", "score", line);
    tile.tag = desk.element("span", "tag", line);
    const under = desk.element("div", "line", tile);
    tile.name = desk.element("span", "name", under);
    tile.mark = desk.element("span", "mark", under);
    return tile;
  }

  place(place) {
    const index = this.shown[place];
    let tile = this.tiles.get(place);
    if (tile && tile.index !== index) {
      this.drop(place, tile);
      tile = undefined;
    }
    if (!tile) {
      tile = this.make();
      this.tiles.set(place, tile);
      tile.index = index;
      tile.dataset.place = place;
      tile.id = `tile-${place}`;
      tile.className = "tile";
      for (const image of tile.images) image.classList.remove("there", "tiny");
    }
    const row = Math.floor(place / this.columns), column = place % this.columns;
    const x = column * (this.tileWidth + this.gap), y = row * (this.tileHeight + this.gap);
    tile.style.transform = `translate(${x}px, ${y}px)`;
    tile.style.width = `${this.tileWidth}px`;
    tile.style.height = `${this.tileHeight}px`;
    tile.style.order = place; // on paper
    this.describe(tile, place, index);
  }

  describe(tile, place, index) {
    const said = this.page.describe(index);
    const name = this.page.source.name(index, () => this.soon());
    tile.score.textContent = said.score;
    tile.tag.textContent = said.tag;
    tile.tag.className = `tag ${said.tone}`;
    tile.mark.textContent = said.mark;
    tile.mark.className = `mark ${said.markTone}`;
    tile.name.textContent = name ? this.page.place(index, name, true) : "…";
    tile.classList.toggle("called", said.called);
    tile.classList.toggle("current", place === this.current);
    tile.setAttribute("aria-selected", String(place === this.current));
    tile.setAttribute("aria-setsize", this.shown.length);
    tile.setAttribute("aria-posinset", place + 1);
    tile.setAttribute("aria-label", `${name || "picture"}: ${said.long}`);
  }

  load() {
    for (const [place, tile] of this.tiles) {
      const index = this.shown[place], [picture, map, beside] = tile.images;
      const maps = this.page.source.map(index);
      const thumb = this.page.source.thumb(index);
      this.give(picture, thumb);
      if (!thumb) tile.classList.add(thumb === null ? "gone" : "absent");
      tile.classList.toggle("mapless", !maps);
      this.give(map, this.blend > 0 ? maps : null);
      this.give(beside, this.beside ? maps : null);
    }
  }

  give(image, address) {
    if (!address) image.removeAttribute("src");
    else if (image.getAttribute("src") !== address) image.src = address;
  }

  moveTo(place, scroll = true) {
    if (!this.shown.length) return;
    this.current = Math.min(this.shown.length - 1, Math.max(0, place));
    if (scroll) this.reveal();
    this.render();
    this.page.moved();
  }

  reveal() {
    const row = Math.floor(this.current / this.columns), step = this.tileHeight + this.gap;
    const top = this.box.getBoundingClientRect().top + row * step;
    // What sticks to the top of a narrow page covers what is below it.
    const cover = this.page.covered() + 8;
    if (top < cover) scrollBy(0, top - cover);
    else if (top + this.tileHeight > innerHeight - 8) {
      scrollBy(0, top + this.tileHeight - innerHeight + 8);
    }
  }

  // Whether the key moved to another picture.
  key(name) {
    const rows = Math.max(1, Math.floor((innerHeight - this.page.covered()) / (this.tileHeight + this.gap)));
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: rows * this.columns, PageUp: -rows * this.columns, Home: -Infinity, End: Infinity,
    };
    if (steps[name] === undefined) return false;
    const place = this.current + steps[name];
    const last = this.shown.length - 1;
    // Up in the first row and down in the last one lead nowhere.
    const vertical = name === "ArrowUp" || name === "ArrowDown";
    if (!(vertical && (place < 0 || place > last))) this.moveTo(place);
    return true;
  }
};
