"use strict";
// Filters, the way from error to error, and arcs. Nothing here makes elements out of text: what
// the page says is in the page, and this only hides, marks and draws.
(() => {
  const byId = (id) => document.getElementById(id);
  const bar = byId("bar"), kind = byId("kind"), label = byId("label"), status = byId("status");
  const notes = [...document.querySelectorAll("article")].map((element) => ({
    element,
    labels: new Set(element.dataset.l.split(" ")),
    errors: [...element.querySelectorAll(".errors li")],
  }));
  const sheet = document.styleSheets[0];
  let stops = [], at = -1, ruled = false;

  // Filters ------------------------------------------------------------------------------------
  const wantedKind = () => (kind ? kind.value : "all");
  const isWanted = (error) => {
    const k = wantedKind();
    const ofKind = k === "all" || k === "any" || error.dataset.k === k;
    return ofKind && (!label.value || error.dataset.l.split(" ").includes(label.value));
  };

  const apply = () => {
    let shown = 0;
    clear();
    stops = [];
    for (const note of notes) {
      const wanted = note.errors.filter(isWanted);
      for (const error of note.errors) error.hidden = !wanted.includes(error);
      const hide = wantedKind() === "all" ? label.value && !note.labels.has(label.value) : !wanted.length;
      note.element.hidden = Boolean(hide);
      if (!hide) {
        shown += 1;
        stops.push(...wanted);
      }
    }
    at = -1;
    if (ruled) sheet.deleteRule(sheet.cssRules.length - 1);
    ruled = Boolean(label.value);
    if (ruled) {
      const others = `.text mark:not(.L${label.value})`;
      sheet.insertRule(
        `@media all { ${others} { background: none; border-color: transparent; box-shadow: none; outline: none; }` +
          ` ${others}::after { display: none; } }`,
        sheet.cssRules.length,
      );
    }
    const errors = kind ? `, ${stops.length.toLocaleString("en")} error${stops.length === 1 ? "" : "s"}` : "";
    drawAll();
    say(`${shown.toLocaleString("en")} of ${notes.length.toLocaleString("en")} notes shown${errors}`);
  };

  const say = (text, strong) => {
    status.textContent = "";
    if (strong) status.appendChild(document.createElement("b")).textContent = strong;
    status.append(text);
  };

  // From error to error ------------------------------------------------------------------------
  const clear = () => {
    for (const element of document.querySelectorAll(".now")) element.classList.remove("now");
  };

  const marksOf = (error) => {
    const note = error.closest("article");
    const found = [];
    for (const [side, numbers] of [["gold", error.dataset.g], ["predicted", error.dataset.p]]) {
      for (const number of numbers ? numbers.split(" ") : []) {
        found.push(...note.querySelectorAll(`.${side} mark[data-m="${number}"]`));
      }
    }
    return found;
  };

  const show = (error) => {
    clear();
    const marks = marksOf(error);
    for (const mark of marks) mark.classList.add("now");
    error.classList.add("now");
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    (marks[0] || error).scrollIntoView({ block: "center", behavior: still ? "instant" : "auto" });
    at = stops.indexOf(error);
    const place = at < 0 ? "" : `${at + 1} of ${stops.length}: `;
    const note = error.closest("article").querySelector("h2").firstChild.textContent;
    const [title, ...rest] = error.childNodes;
    const words = rest.map((node) => node.textContent).join("").trim();
    say(` ${words} (note ${note.trim()})`, place + title.textContent);
  };

  const step = (by) => {
    if (!stops.length) {
      say("No error in what is shown");
      return;
    }
    const from = at < 0 ? (by > 0 ? -1 : 0) : at;
    show(stops[(from + by + stops.length) % stops.length]);
  };

  document.addEventListener("click", (event) => {
    const error = event.target.closest(".errors li");
    if (error && event.target.closest("button")) show(error);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !kind) return;
    if (event.target.closest("select, input, textarea")) return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
  });

  // Arcs ---------------------------------------------------------------------------------------
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const n = (value) => value.toFixed(1);
  const middle = (rect) => (rect.top + rect.bottom) / 2;

  const rectsIn = (panel) => {
    const box = panel.getBoundingClientRect();
    const rects = new Map();
    for (const mark of panel.querySelectorAll("mark")) {
      const own = [...mark.getClientRects()].map((r) => ({
        left: r.left - box.left, right: r.right - box.left,
        top: r.top - box.top, bottom: r.bottom - box.top,
      }));
      rects.set(mark.dataset.m, [...(rects.get(mark.dataset.m) || []), ...own]);
    }
    return rects;
  };

  const nearest = (first, second) => {
    let best = null;
    for (const a of first) {
      for (const b of second) {
        const aside = Math.max(0, b.left - a.right, a.left - b.right);
        const cost = 4 * Math.abs(middle(a) - middle(b)) + aside;
        if (!best || cost < best.cost) best = { a, b, cost };
      }
    }
    return best;
  };

  // From a modifier's rectangle to its entity's: over the line, or from one line to another.
  const arc = (a, b, lineHeight) => {
    const dy = middle(b) - middle(a);
    const ax = (a.left + a.right) / 2;
    const inside = b.left <= a.left + 3 && a.right <= b.right + 3;
    // Where a modifier lies in its entity, the arc leads to the entity's far side.
    const bx = inside ? (ax - b.left < b.right - ax ? b.right - 7 : b.left + 7) : (b.left + b.right) / 2;
    if (Math.abs(dy) < lineHeight / 2) {
      const top = Math.min(a.top, b.top) - 1;
      const h = Math.min(9, 4 + Math.abs(ax - bx) * 0.04) * 1.33;
      return { d: `M${n(ax)} ${n(top)}C${n(ax)} ${n(top - h)} ${n(bx)} ${n(top - h)} ${n(bx)} ${n(top - 1)}`, bx, by: top + 2, down: true, far: false };
    }
    const down = dy > 0;
    const ay = down ? a.bottom : a.top, by = down ? b.top - 1 : b.bottom + 1;
    const bend = down ? 12 : -12;
    return {
      d: `M${n(ax)} ${n(ay)}C${n(ax)} ${n(ay + bend)} ${n(bx)} ${n(by - bend)} ${n(bx)} ${n(by)}`,
      bx, by, down, far: Math.abs(dy) > 1.6 * lineHeight,
    };
  };

  const draw = (panel) => {
    erase(panel);
    if (!byId("arcs").checked) return;
    const rects = rectsIn(panel);
    const lineHeight = parseFloat(getComputedStyle(panel).lineHeight);
    const isLabel = (number) => {
      const mark = panel.querySelector(`mark[data-m="${number}"]`);
      return mark && mark.classList.contains(`L${label.value}`);
    };
    const picture = svg("svg", { class: "arcs", "aria-hidden": "true" });
    const side = panel.closest(".gold") ? "missed" : "spurious";
    for (const mark of panel.querySelectorAll("mark[data-to]")) {
      for (const to of mark.dataset.to.split(" ")) {
        const tail = to.replace("x", "");
        if (label.value && !isLabel(mark.dataset.m) && !isLabel(tail)) continue;
        const ends = nearest(rects.get(mark.dataset.m) || [], rects.get(tail) || []);
        if (!ends) continue;
        const { d, bx, by, down, far } = arc(ends.a, ends.b, lineHeight);
        const names = (to.endsWith("x") ? ` bad ${side}` : "") + (far ? " far" : "");
        const which = { "data-a": mark.dataset.m, "data-b": tail };
        const back = down ? -5 : 5;
        picture.append(
          svg("path", { class: `arc${names}`, d, ...which }),
          svg("path", { class: `head${names}`, d: `M${n(bx)} ${n(by)}l-3 ${back}h6z`, ...which }),
        );
      }
    }
    const parts = new Set([...panel.querySelectorAll("mark.part")].map((mark) => mark.dataset.m));
    for (const number of parts) {
      const own = rects.get(number);
      for (let i = 1; i < own.length; i += 1) {
        const a = own[i - 1], b = own[i];
        if (Math.abs(a.bottom - b.bottom) < 6 && b.left > a.right) {
          picture.append(svg("path", { class: "gap", d: `M${n(a.right)} ${n(a.bottom)}H${n(b.left)}` }));
        }
      }
    }
    if (picture.childNodes.length) panel.append(picture);
  };
  const erase = (panel) => {
    for (const old of panel.querySelectorAll(":scope > svg")) old.remove();
  };

  // Only what is in sight has arcs, so a page with thousands of notes stays light.
  const inSight = new Set();
  const resized = new ResizeObserver((entries) => {
    requestAnimationFrame(() => entries.forEach(({ target }) => inSight.has(target) && draw(target)));
  });
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        inSight.add(target);
        draw(target);
        resized.observe(target);
      } else {
        inSight.delete(target);
        resized.unobserve(target);
        erase(target);
      }
    }
  }, { rootMargin: "300px" });
  const drawAll = () => inSight.forEach(draw);

  // What the pointer rests on, and what it is linked to.
  document.addEventListener("mouseover", (event) => {
    for (const element of document.querySelectorAll(".on")) element.classList.remove("on");
    const mark = event.target.closest(".text mark");
    if (!mark) return;
    const panel = mark.closest(".text");
    const linked = new Set([mark.dataset.m]);
    for (const path of panel.querySelectorAll(".arcs [data-a]")) {
      if (path.dataset.a === mark.dataset.m || path.dataset.b === mark.dataset.m) {
        path.classList.add("on");
        linked.add(path.dataset.a).add(path.dataset.b);
      }
    }
    for (const other of panel.querySelectorAll("mark")) {
      if (linked.has(other.dataset.m)) other.classList.add("on");
    }
  });

  if (kind) {
    kind.addEventListener("change", apply);
    byId("next").addEventListener("click", () => step(1));
    byId("previous").addEventListener("click", () => step(-1));
  }
  label.addEventListener("change", apply);
  byId("arcs").addEventListener("change", drawAll);
  byId("names").addEventListener("change", () => {
    document.body.classList.toggle("no-names", !byId("names").checked);
    drawAll();
  });
  bar.hidden = false;
  apply();
  for (const panel of document.querySelectorAll(".text")) {
    if (panel.querySelector("mark[data-to], mark.part")) seen.observe(panel);
  }
})();
