"use strict";
// One picture, large, beside its errors.
globalThis.desk = globalThis.desk || {};

desk.Viewer = class {
  constructor(dialog, page) {
    this.dialog = dialog;
    this.page = page;
    const find = (name) => dialog.querySelector(`[data-is=${name}]`);
    this.images = { picture: find("picture"), over: find("over"), beside: find("beside") };
    this.text = { name: find("name"), said: find("said") };
    this.ofMaps = [find("map-pane"), find("blend")];
    for (const image of Object.values(this.images)) {
      image.addEventListener("load", () => {
        image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 64);
        image.classList.add("there");
      });
    }
    this.images.picture.addEventListener("error", () => {
      if (this.images.picture.getAttribute("src")) dialog.classList.add("gone");
    });
    for (const [name, act] of [
      ["previous", () => page.tiles.moveTo(page.tiles.current - 1)],
      ["next", () => page.tiles.moveTo(page.tiles.current + 1)],
      ["close", () => dialog.close()],
    ]) find(name).addEventListener("click", act);
    for (const button of dialog.querySelectorAll("[data-mark]")) {
      button.addEventListener("click", () => page.mark(button.dataset.mark || null));
    }
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (step === undefined || event.target.matches("input")) return;
      event.preventDefault();
      page.tiles.moveTo(page.tiles.current + step);
    });
    dialog.addEventListener("close", () => page.closed());
  }

  get open() { return this.dialog.open; }

  show() {
    if (!this.dialog.open) this.dialog.showModal();
    this.update();
  }

  update() {
    const index = this.page.tiles.index;
    if (index === undefined) {
      this.dialog.close();
      return;
    }
    const source = this.page.source, said = this.page.describe(index);
    if (this.index !== index) {
      const picture = source.picture(index);
      this.dialog.classList.toggle("gone", picture === null);
      this.dialog.classList.toggle("absent", picture === "");
      for (const image of Object.values(this.images)) image.classList.remove("there", "tiny");
    }
    this.index = index;
    const map = source.map(index);
    for (const each of this.ofMaps) each.hidden = !map;
    const give = (image, address) => {
      if (!address) image.removeAttribute("src");
      else if (image.getAttribute("src") !== address) image.src = address;
    };
    give(this.images.picture, source.picture(index));
    give(this.images.over, map);
    give(this.images.beside, map);
    const name = source.name(index, () => this.open && this.update());
    this.text.name.textContent = this.page.place(index, name || "…");
    this.text.said.textContent = said.long;
    for (const button of this.dialog.querySelectorAll("[data-mark]")) {
      const mark = this.page.marks.get(index) || "";
      button.setAttribute("aria-pressed", String(button.dataset.mark === mark && mark !== ""));
    }
  }
};
