"use strict";
// All texts of the data set reach the page as textContent, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

// maps are read back whenever the area changes
const contextOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// tables

function sortable(table) {
  const box = make("div", null, { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title });
  const element = box.appendChild(make("table"));
  const head = element.appendChild(make("thead")).appendChild(make("tr"));
  const body = element.appendChild(make("tbody"));
  for (const row of table.rows) {
    const line = body.appendChild(make("tr"));
    for (const cell of row) {
      const td = line.appendChild(make("td", cell.t, cell.k ? { class: cell.k } : {}));
      td.value = cell.v === undefined ? cell.t : cell.v;
    }
  }
  table.head.forEach((title, column) => {
    const th = head.appendChild(make("th", null, { scope: "col" }));
    const button = th.appendChild(make("button", title, { type: "button" }));
    button.addEventListener("click", () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      for (const other of head.children) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortRows(body, column, down ? -1 : 1);
    });
  });
  return box;
}

function sortRows(body, column, sign) {
  const value = (row) => row.children[column].value;
  const empty = (v) => v === null || v === "" || v === "-";
  const rows = [...body.children].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (empty(x) || empty(y)) return empty(x) - empty(y); // holes stay at the end
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
  });
  body.append(...rows);
}

function showTables(section, groups) {
  groups.forEach((group, index) => {
    const details = section.appendChild(make("details"));
    details.open = index === 0;
    details.appendChild(make("summary", group.title));
    for (const text of group.texts) details.appendChild(make("p", text));
    for (const table of group.tables) {
      details.appendChild(make("h3", table.title));
      for (const text of table.texts) details.appendChild(make("p", text));
      details.appendChild(sortable(table));
    }
  });
}

// images

const inferno = data.colours; // 256 x [r, g, b]
let gallery = null, cards = [], shown = [], opened = null;

const heavy = (number) => JSON.parse(at(`image-${data.galleries.indexOf(gallery)}-${number}`).textContent);

function picture(source) {
  return new Promise((resolve) => {
    if (!source) return resolve(null);
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = source;
  });
}

function pixels(image, side) {
  const canvas = make("canvas");
  canvas.width = canvas.height = side;
  const context = contextOf(canvas);
  context.imageSmoothingEnabled = false; // a rank is no colour: nothing in between
  context.drawImage(image, 0, 0, side, side);
  return context.getImageData(0, 0, side, side).data;
}

// draws a map over the photograph, or the photograph without or with only the q % most salient pixels
function paint(canvas, photo, rank, mode, q, substrate) {
  const side = gallery.side;
  canvas.width = canvas.height = side;
  const context = contextOf(canvas);
  context.fillStyle = `rgb(${gallery.fill.join(",")})`;
  context.fillRect(0, 0, side, side);
  let blank = null;
  if (photo && mode === "kept" && substrate === "blur") {
    context.filter = `blur(${side / 40}px)`;
    context.drawImage(photo, 0, 0, side, side);
    context.filter = "none";
    blank = context.getImageData(0, 0, side, side).data;
  }
  if (photo) context.drawImage(photo, 0, 0, side, side);
  if (!rank) return;
  const frame = context.getImageData(0, 0, side, side), pixel = frame.data;
  for (let i = 0; i < pixel.length; i += 4) {
    const salient = rank[i] < 2.56 * q;
    if (mode === "map") {
      const strength = Math.max(0, 1 - rank[i] / 128), colour = inferno[Math.round(255 * strength)], alpha = 0.25 + 0.6 * strength;
      for (let c = 0; c < 3; c++) pixel[i + c] = (1 - alpha) * pixel[i + c] + alpha * colour[c];
    } else if (salient === (mode === "removed")) {
      for (let c = 0; c < 3; c++) pixel[i + c] = blank ? blank[i + c] : gallery.fill[c];
    }
  }
  context.putImageData(frame, 0, 0);
}

// p of the class at q, interpolated between the recorded points; null where none was recorded
function probability(curve, q) {
  if (!curve) return null;
  const grid = gallery.grids[curve.g], x = q / 100;
  let i = grid.findIndex((g) => g >= x - 1e-9);
  if (i <= 0) return curve.p[Math.max(0, i)];
  const share = (x - grid[i - 1]) / (grid[i] - grid[i - 1]);
  return curve.p[i - 1] + Math.min(1, share) * (curve.p[i] - curve.p[i - 1]);
}

const number = (value, digits = 3) => (value === null || value === undefined ? "-" : value.toFixed(digits));
const mode = () => document.querySelector("input[name=mode]:checked").value;

function caption(entry, method) {
  const q = Number(at("area").value);
  if (mode() === "map") {
    const measure = gallery.measures[at("measure").value];
    return measure ? `${measure.title} ${number(entry.values[method]?.[at("measure").value])}` : "";
  }
  const curve = entry.content.maps[method]?.[mode()];
  return curve ? `p ${number(probability(curve, q))}` : "p not recorded";
}

// a card's pictures are made when it comes near the window, and dropped when it is far
async function fill(card) {
  const entry = card.entry;
  if (card.filled) return;
  card.filled = true;
  entry.content = heavy(entry.number);
  const photo = await picture(entry.content.photo);
  if (!card.filled) return;
  card.tiles.replaceChildren();
  const first = card.tiles.appendChild(make("div", null, { class: "tile photo" }));
  const canvas = first.appendChild(make("canvas", null, { role: "img", "aria-label": `image ${entry.id}` }));
  paint(canvas, photo, null);
  first.appendChild(make("span", entry.content.photo ? "input" : "no photograph"));
  card.drawn = [];
  for (const [index, method] of gallery.methods.entries()) {
    if (!entry.values[index]) continue;
    const tile = card.tiles.appendChild(make("button", null, { class: "tile", type: "button", "aria-label": `enlarge ${method}` }));
    const canvas = tile.appendChild(make("canvas"));
    tile.appendChild(make("span", method));
    const text = tile.appendChild(make("span"));
    tile.addEventListener("click", () => enlarge(entry, index).then(() => at("large").showModal()));
    const own = entry.content.maps[index];
    const [map, both] = await Promise.all([picture(own?.rank), picture(own?.both)]);
    if (!card.filled) return;
    card.drawn.push({ index, canvas, text, photo, both, rank: map && pixels(map, gallery.side), substrate: own?.substrate });
    draw(card, card.drawn[card.drawn.length - 1]);
  }
}

function draw(card, tile) {
  if (mode() === "map" && tile.both) {
    tile.canvas.width = tile.canvas.height = gallery.side;
    contextOf(tile.canvas).drawImage(tile.both, 0, 0, gallery.side, gallery.side);
  } else paint(tile.canvas, tile.photo, tile.rank, mode(), Number(at("area").value), tile.substrate);
  tile.text.textContent = caption(card.entry, tile.index);
}

function drop(card) {
  if (!card.filled) return;
  card.filled = false;
  card.drawn = [];
  card.entry.content = null;
  card.tiles.replaceChildren();
}

const near = new IntersectionObserver(
  (entries) => entries.forEach((e) => (e.isIntersecting ? fill(e.target) : drop(e.target))),
  { rootMargin: "300px" },
);

let redrawing = false;
function redraw() {
  at("area-value").textContent = `${at("area").value} %`;
  if (redrawing) return;
  redrawing = true;
  requestAnimationFrame(() => {
    redrawing = false;
    for (const card of cards) if (card.filled && !card.hidden) for (const tile of card.drawn || []) draw(card, tile);
  });
}

function spread(entry) {
  const name = at("measure").value;
  return name === "maps" ? entry.disagreement : entry.spreads[name] ?? null;
}

function select() {
  const words = at("search").value.toLowerCase(), wanted = at("class").value, failure = at("failure").value;
  const values = cards.map((c) => spread(c.entry)).filter((v) => v !== null);
  const least = (Number(at("spread").value) / 100) * Math.max(0, ...values);
  at("spread-value").textContent = number(least, 2);
  shown = [];
  for (const card of cards) {
    const e = card.entry;
    const fits = (!words || e.text.includes(words)) && (!wanted || e.classes.includes(wanted)) &&
      (!failure || e.failures.includes(failure)) && (least === 0 || (spread(e) ?? -1) >= least);
    card.hidden = !fits;
    if (fits) shown.push(card);
    else drop(card);
  }
  at("count").textContent = `${shown.length} of ${cards.length} images`;
}

function arrange() {
  const order = at("order").value;
  const key = { image: (e) => e.number, p: (e) => -(e.p ?? -1), "-p": (e) => e.p ?? 2, spread: (e) => -(spread(e) ?? -Infinity) }[order];
  cards.sort((a, b) => key(a.entry) - key(b.entry) || a.entry.number - b.entry.number);
  at("cards").append(...cards);
  select();
}

function options(element, pairs) {
  element.replaceChildren(...pairs.map(([value, text]) => make("option", text, { value })));
}

function open(index) {
  gallery = data.galleries[index];
  near.disconnect();
  at("gallery-note").textContent = gallery.note;
  const classes = [...new Set(gallery.images.flatMap((e) => e.classes))].sort((a, b) => a.localeCompare(b));
  options(at("class"), [["", "all"], ...classes.map((c) => [c, c])]);
  const failures = [...new Set(gallery.images.flatMap((e) => e.failures))].sort();
  options(at("failure"), [["", "all"], ...failures.map((f) => [f, f])]);
  const measures = Object.entries(gallery.measures).map(([name, m]) => [name, m.title]);
  options(at("measure"), [...measures, ...(gallery.compared ? [["maps", "the maps themselves"]] : [])]);
  at("measure").value = measures.some(([name]) => name === gallery.first) ? gallery.first : at("measure").value;
  options(at("order"), [["image", "image"], ["spread", "most disagreement first"], ["p", "p, largest first"], ["-p", "p, smallest first"]]);
  cards = gallery.images.map((entry) => {
    const card = make("article", null, { class: "card" });
    const title = card.appendChild(make("h3", entry.title));
    for (const failure of entry.failures) if (failure !== "none") title.appendChild(make("span", failure, { class: "tag" }));
    card.tiles = card.appendChild(make("div", null, { class: "tiles" }));
    card.entry = entry;
    entry.text = `${entry.id} ${entry.classes.join(" ")}`.toLowerCase();
    return card;
  });
  at("cards").replaceChildren(...cards);
  arrange();
  redraw();
  cards.forEach((card) => near.observe(card));
}

// one image, large

async function enlarge(entry, method) {
  opened = { entry, method };
  const content = heavy(entry.number);
  at("large-title").textContent = entry.title;
  at("large-facts").textContent = entry.facts;
  options(at("large-method"), gallery.methods.map((m, i) => [i, m]).filter(([i]) => entry.values[i]));
  at("large-method").value = method;
  at("large-area").value = at("area").value;
  const own = content.maps[method];
  const [photo, map, both] = await Promise.all([picture(content.photo), picture(own?.rank), picture(own?.both)]);
  if (opened.entry !== entry || opened.method !== method) return; // overtaken by the next one
  Object.assign(opened, { content, photo, map: map && pixels(map, gallery.side), both });
  showLarge();
}

function showLarge() {
  if (!opened?.content) return; // still on its way
  const { entry, method, content, photo, map, both } = opened;
  const q = Number(at("large-area").value), own = content.maps[method];
  at("large-area-value").textContent = `${q} %`;
  const panel = (text, how) => {
    const figure = make("figure"), canvas = figure.appendChild(make("canvas", null, { role: "img", "aria-label": text }));
    how(canvas);
    figure.appendChild(make("figcaption", text));
    return figure;
  };
  const p = (side) => (own?.[side] ? `, p ${number(probability(own[side], q))}` : ", p not recorded");
  const panels = [panel(`input, p ${number(entry.p)}`, (c) => paint(c, photo, null))];
  if (map) panels.push(panel(`${gallery.methods[method]}: pixels by rank`, (c) => paint(c, photo, map, "map", q)));
  if (both) {
    panels.push(panel("necessity (blue), sufficiency (orange), both (white)", (c) => {
      c.width = c.height = gallery.side;
      contextOf(c).drawImage(both, 0, 0, gallery.side, gallery.side);
    }));
  }
  if (map) {
    const over = own.substrate === "blur" ? ", over a blur" : "";
    panels.push(panel(`${q} % removed${p("removed")}`, (c) => paint(c, photo, map, "removed", q)));
    panels.push(panel(`${q} % kept${over}${p("kept")}`, (c) => paint(c, photo, map, "kept", q, own.substrate)));
  }
  at("large-pictures").replaceChildren(...panels);
  at("large-curves").replaceChildren(...(own?.removed || own?.kept ? [curves(own, q)] : []));
  const rows = Object.entries(gallery.measures).map(([name, m]) => [
    { t: m.title }, ...gallery.methods.map((_, i) => ({ t: number(entry.values[i]?.[name]), v: entry.values[i]?.[name] ?? null })),
  ]);
  at("large-numbers").replaceChildren(sortable({ title: "numbers of this image", head: ["measure", ...gallery.methods], rows }));
}

function curves(own, q) {
  const space = "http://www.w3.org/2000/svg", width = 480, height = 160, left = 34, right = 66, bottom = 22;
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    return element;
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": "p while pixels are removed and kept" });
  const top = Math.max(...[own.removed, own.kept].filter(Boolean).flatMap((c) => c.p), 1e-6);
  const x = (v) => left + v * (width - left - right), y = (v) => 8 + (1 - v / top) * (height - bottom - 8);
  svg.append(draw("path", { d: `M${left} 8V${height - bottom}H${width - right}`, fill: "none", stroke: "#888" }));
  svg.append(draw("text", { x: 2, y: 16, "font-size": 10 }, number(top, 2)), draw("text", { x: 2, y: height - bottom, "font-size": 10 }, "p 0"));
  svg.append(draw("text", { x: left, y: height - 6, "font-size": 10 }, "salient area, 0 to 100 %"));
  for (const [name, colour, dash] of [["removed", "#0072B2", "none"], ["kept", "#D55E00", "6 3"]]) {
    if (!own[name]) continue;
    const d = gallery.grids[own[name].g].map((g, i) => `${i ? "L" : "M"}${x(g).toFixed(1)} ${y(own[name].p[i]).toFixed(1)}`).join("");
    svg.append(draw("path", { d, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }));
    svg.append(draw("text", { x: width - right + 8, y: name === "removed" ? 18 : 32, "font-size": 11, fill: colour }, name));
  }
  svg.append(draw("path", { d: `M${x(q / 100)} 8V${height - bottom}`, stroke: "#000", "stroke-dasharray": "2 2" }));
  return svg;
}

function step(by) {
  const place = shown.findIndex((card) => card.entry === opened.entry) + by;
  if (shown[place]) enlarge(shown[place].entry, opened.method);
}

// start

at("about").textContent = data.about;
showTables(at("tables"), data.tables);
showTables(at("cells"), data.cells);
if (data.galleries.length) {
  options(at("gallery"), data.galleries.map((g, i) => [i, g.title]));
  at("gallery").addEventListener("change", () => open(Number(at("gallery").value)));
  for (const id of ["search", "spread"]) at(id).addEventListener("input", select);
  for (const id of ["class", "failure"]) at(id).addEventListener("change", select);
  at("order").addEventListener("change", arrange);
  at("measure").addEventListener("change", () => { arrange(); redraw(); });
  at("area").addEventListener("input", redraw);
  document.querySelectorAll("input[name=mode]").forEach((radio) => radio.addEventListener("change", redraw));
  at("large-area").addEventListener("input", showLarge);
  at("large-method").addEventListener("change", () => enlarge(opened.entry, Number(at("large-method").value)));
  at("large-back").addEventListener("click", () => step(-1));
  at("large-next").addEventListener("click", () => step(1));
  at("large").addEventListener("keydown", (event) => {
    if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  open(0);
} else {
  at("controls").hidden = true;
  at("no-images").hidden = false;
}
