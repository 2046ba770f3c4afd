"use strict";
// Polygons over an opened picture: what does not count in any picture, for `train --ignore-mask`.
globalThis.desk = globalThis.desk || {};

desk.Mask = class {
  constructor(viewer, page) {
    this.viewer = viewer;
    this.page = page;
    this.polygons = []; // corners [x, y], in shares of the picture's width and height
    this.corners = []; // of the polygon that is being drawn
    this.cursor = [0.5, 0.5];
    this.drawing = false;
    const find = (id) => document.getElementById(id);
    this.box = find("mask-drawing");
    this.bar = find("mask-bar");
    this.told = find("mask-told");
    this.buttons = { draw: find("mask-draw"), close: find("mask-close"), back: find("mask-back"),
      clear: find("mask-clear"), save: find("mask-save") };
    for (const [name, act] of [
      ["draw", () => this.turn(!this.drawing)], ["close", () => this.close()],
      ["back", () => this.back()], ["clear", () => this.clear()], ["save", () => this.save()],
    ]) this.buttons[name].addEventListener("click", act);
    this.box.addEventListener("pointerdown", (event) => this.press(event));
    this.box.addEventListener("pointermove", (event) => {
      this.cursor = this.at(event);
      this.draw();
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
    viewer.images.picture.addEventListener("load", () => this.draw());
  }

  // The width and height of the opened picture.
  get size() {
    const { naturalWidth, naturalHeight } = this.viewer.images.picture;
    return [naturalWidth || 1, naturalHeight || 1];
  }

  turn(drawing) {
    this.drawing = drawing;
    this.corners = [];
    this.draw();
    if (drawing) this.box.focus();
  }

  // Where in the picture an event is.
  at(event) {
    const seen = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(this.box.getScreenCTM().inverse());
    return [seen.x, seen.y].map((value, k) => Math.min(1, Math.max(0, value / this.size[k])));
  }

  press(event) {
    if (event.button) return;
    event.preventDefault();
    this.box.focus();
    this.cursor = this.at(event);
    this.add();
  }

  // A corner where the cursor is; on the first one it closes the polygon.
  add() {
    const [width, height] = this.size, { corners, cursor } = this;
    const near = (corner, share) => corner && Math.hypot(
      (corner[0] - cursor[0]) * width, (corner[1] - cursor[1]) * height,
    ) < share * Math.max(width, height);
    if (corners.length > 2 && near(corners[0], 0.02)) {
      this.close();
      return;
    }
    if (near(corners.at(-1), 0.002)) return; // the second half of a double click
    this.corners.push(this.cursor.map((value) => Number(value.toFixed(5))));
    this.draw();
  }

  close() {
    if (this.corners.length < 3) return;
    // The mask gets the proportions of the picture that it was begun on.
    if (!this.polygons.length) this.begun = { index: this.page.tiles.index, size: this.size };
    this.polygons.push(this.corners);
    this.corners = [];
    this.told.textContent = "";
    this.draw();
    this.box.focus();
  }

  // Takes the last corner back, or the last polygon.
  back() {
    if (this.corners.length) this.corners.pop();
    else this.polygons.pop();
    this.draw();
  }

  clear() {
    this.polygons = [];
    this.corners = [];
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 0.002 : 0.02;
    const moves = {
      ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step],
    };
    const acts = {
      " ": () => this.add(), Enter: () => this.close(), Backspace: () => this.back(),
      Escape: () => { this.turn(false); this.buttons.draw.focus(); },
    };
    const move = moves[event.key];
    if (!move && !acts[event.key]) return;
    // Else arrows would go to another picture, and Escape would close this one.
    event.preventDefault();
    event.stopPropagation();
    if (!move) {
      acts[event.key]();
      return;
    }
    this.cursor = this.cursor.map((value, k) => Math.min(1, Math.max(0, value + move[k])));
    this.draw();
  }

  // The polygons as the points of an SVG of the picture's size.
  points(corners, size = this.size) {
    return corners.map((corner) => corner.map((share, k) => (share * size[k]).toFixed(1)).join()).join(" ");
  }

  draw() {
    const [width, height] = this.size;
    this.bar.hidden = !this.drawing;
    this.box.classList.toggle("drawing", this.drawing);
    if (this.drawing) this.box.setAttribute("tabindex", 0);
    else this.box.removeAttribute("tabindex");
    this.box.setAttribute("aria-hidden", String(!this.drawing));
    this.box.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.box.replaceChildren();
    const shape = (name, attributes) => desk.svg(name, attributes, this.box);
    for (const corners of this.polygons) shape("polygon", { points: this.points(corners) });
    if (this.drawing) {
      shape("polyline", { points: this.points([...this.corners, this.cursor]) });
      const unit = Math.max(width, height);
      for (const corner of this.corners) {
        shape("circle", { cx: corner[0] * width, cy: corner[1] * height, r: unit / 120 });
      }
      const [x, y] = [this.cursor[0] * width, this.cursor[1] * height], arm = unit / 40;
      shape("path", { d: `M${x - arm} ${y}h${2 * arm}M${x} ${y - arm}v${2 * arm}` });
      this.box.setAttribute("aria-label", `Drawing: ${this.polygons.length} polygons, `
        + `${this.corners.length} corners of the next one; the cross is at `
        + `${this.cursor.map((share) => `${Math.round(100 * share)} %`).join(", ")}`);
    }
    this.buttons.draw.setAttribute("aria-pressed", String(this.drawing));
    this.buttons.close.disabled = this.corners.length < 3;
    this.buttons.back.disabled = !this.corners.length && !this.polygons.length;
    this.buttons.clear.disabled = this.buttons.back.disabled;
    this.buttons.save.disabled = !this.polygons.length || this.corners.length > 0;
    this.lay();
  }

  // Lays the polygons over all tiles, as a picture in their style.
  lay() {
    const { size: [width, height] } = this.begun || { size: [1, 1] };
    const shown = this.polygons.map((corners) =>
      `<polygon points='${this.points(corners, [width, height])}'/>`).join("");
    if (shown === this.laid) return;
    this.laid = shown;
    const tiles = document.getElementById("tiles");
    tiles.classList.toggle("masked", Boolean(shown));
    const picture = `<svg xmlns='http://www.w3.org/2000/svg' width='${width}' height='${height}' `
      + `viewBox='0 0 ${width} ${height}' fill='white' fill-opacity='.7'>${shown}</svg>`;
    tiles.style.setProperty("--mask", shown ? `url("data:image/svg+xml,${encodeURIComponent(picture)}")` : "none");
  }

  async save() {
    this.buttons.save.disabled = true;
    this.told.textContent = "Writing…";
    try {
      const { path, command } = await this.page.source.mask(this.begun.index, this.polygons);
      this.told.textContent = `Written to ${path}. Train with it: `;
      desk.element("code", "command", this.told, command);
    } catch (error) {
      this.told.textContent = error.message;
    }
    this.buttons.save.disabled = !this.polygons.length;
  }
};
