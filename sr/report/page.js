"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const cards = all(".card");
  const main = byId("cards");
  const loupe = byId("loupe");
  const lower = new Set((main.dataset.lower || "").split(" "));
  const scores = new Map(cards.map((card) => [card, JSON.parse(card.dataset.scores)]));
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const nameOf = (layer) => byId("left").options[layer].text;
  const looking = { stage: null, x: 0.5, y: 0.5 };

  // ---- slider ----

  function slide(card, percent) {
    const at = clamp(percent, 0, 100);
    const range = card.querySelector(".slide");
    card.querySelector(".stage").style.setProperty("--at", at + "%");
    range.value = at;
    range.setAttribute("aria-valuetext", Math.round(at) + "% " + nameOf(byId("left").value));
  }

  function layers() {
    const left = byId("left").value;
    const right = byId("right").value;
    for (const card of cards) {
      for (const image of all(".stage img", card)) {
        image.classList.toggle("left", image.dataset.layer === left);
        image.classList.toggle("right", image.dataset.layer === right);
      }
      card.querySelector(".on-left").textContent = nameOf(left);
      card.querySelector(".on-right").textContent = nameOf(right);
      slide(card, Number(card.querySelector(".slide").value));
    }
    order();
  }

  // ---- order: where the right loses most against the left comes first ----

  function gain(card, metric) {
    const [left, right] = [byId("left").value, byId("right").value].map((layer) => scores.get(card)[layer][metric]);
    if (left === undefined || right === undefined) return Infinity;
    if (left === right) return 0;
    const [from, to] = [left, right].map((value) => (value === null ? Infinity : value));
    return lower.has(metric) ? from - to : to - from;
  }

  function order() {
    const by = byId("order").value;
    const place = (card) => Number(card.dataset.place);
    const sorted = [...cards].sort((a, b) => {
      if (by === "name") return place(a) - place(b);
      const [one, other] = [gain(a, by), gain(b, by)];
      return one === other ? place(a) - place(b) : one - other;
    });
    main.append(...sorted);
  }

  // ---- loupe: the same place of every layer, enlarged ----

  function look(stage, x, y) {
    if (!byId("loupe-on").checked) return;
    looking.x = clamp(x, 0, 1);
    looking.y = clamp(y, 0, 1);
    if (looking.stage !== stage) {
      looking.stage = stage;
      const panes = all("img", stage).map((image) => {
        const [figure, pane, copy, caption] = ["figure", "div", "img", "figcaption"].map((t) => document.createElement(t));
        pane.className = "pane";
        copy.src = image.src;
        copy.alt = "";
        caption.textContent = nameOf(image.dataset.layer);
        pane.append(copy);
        figure.append(pane, caption);
        return figure;
      });
      loupe.replaceChildren(...panes);
    }
    loupe.hidden = false;
    const zoom = Number(byId("zoom").value);
    const wide = Number(stage.dataset.wide) * zoom;
    const high = Number(stage.dataset.high) * zoom;
    for (const pane of all(".pane", loupe)) {
      const style = pane.firstElementChild.style;
      style.width = wide + "px";
      style.height = high + "px";
      style.left = pane.clientWidth / 2 - looking.x * wide + "px";
      style.top = pane.clientHeight / 2 - looking.y * high + "px";
    }
  }

  function hide() {
    loupe.hidden = true;
    looking.stage = null;
  }

  // ---- pointer and keys ----

  for (const card of cards) {
    const stage = card.querySelector(".stage");
    const range = card.querySelector(".slide");
    const place = (event) => {
      const box = stage.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    range.addEventListener("input", () => slide(card, Number(range.value)));
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      slide(card, 100 * place(event)[0]);
    });
    stage.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) slide(card, 100 * place(event)[0]);
      look(stage, ...place(event));
    });
    stage.addEventListener("pointerleave", () => {
      if (!stage.matches(":focus-visible")) hide();
    });
    stage.addEventListener("focus", () => {
      if (stage.matches(":focus-visible")) look(stage, looking.x, looking.y);
    });
    stage.addEventListener("blur", hide);
    stage.addEventListener("keydown", (event) => {
      const pixels = event.shiftKey ? 1 : 16;
      const [dx, dy] = [pixels / Number(stage.dataset.wide), pixels / Number(stage.dataset.high)];
      const moves = { ArrowLeft: [-dx, 0], ArrowRight: [dx, 0], ArrowUp: [0, -dy], ArrowDown: [0, dy] };
      const zoom = byId("zoom");
      if (event.key in moves) {
        look(stage, looking.x + moves[event.key][0], looking.y + moves[event.key][1]);
      } else if (event.key === "+" || event.key === "-") {
        zoom.selectedIndex = clamp(zoom.selectedIndex + (event.key === "+" ? 1 : -1), 0, zoom.options.length - 1);
        look(stage, looking.x, looking.y);
      } else if (event.key === "Escape") {
        hide();
      } else {
        return;
      }
      event.preventDefault();
    });
  }
  byId("left").addEventListener("change", layers);
  byId("right").addEventListener("change", layers);
  byId("order").addEventListener("change", order);
  byId("loupe-on").addEventListener("change", hide);
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  layers();
})();
