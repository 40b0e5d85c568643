"use strict";
const { colours } = data;
let gallery = null, cards = [], shown = [], opened = null;

const heavy = (number) => JSON.parse(at(`image-${data.galleries.indexOf(gallery)}-${number}`).textContent);
const number = (value, digits = 3) => (value === null || value === undefined ? "-" : value.toFixed(digits));
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
// maps are read back whenever the area changes
const contextOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

function picture(source) {
  return new Promise((resolve) => {
    if (!source) return resolve(null);
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = source;
  });
}

// the pixels of a picture at a size; ranks are picked, for a rank is no colour and nothing lies in between
function pixels(image, side, smooth = false) {
  const canvas = make("canvas");
  canvas.width = canvas.height = side;
  const context = contextOf(canvas);
  context.imageSmoothingEnabled = smooth;
  context.drawImage(image, 0, 0, side, side);
  return context.getImageData(0, 0, side, side).data;
}

// a method's maps, ready to be painted: ranks, and the strength of one map or of both sides, from 0 to 255
async function unpack(own) {
  const [rank, sides] = await Promise.all([picture(own?.rank), picture(own?.sides)]);
  const maps = { rank: rank && pixels(rank, gallery.side), weak: own?.weak ?? [], substrate: own?.substrate };
  if (sides) maps.sides = pixels(sides, gallery.side, true);
  if (own?.levels) {
    const levels = Uint8Array.from(atob(own.levels), (c) => c.charCodeAt(0));
    const small = make("canvas");
    small.width = small.height = rank.width;
    const context = contextOf(small), frame = new ImageData(rank.width, rank.width), ranks = pixels(rank, rank.width);
    for (let i = 0; i < ranks.length; i += 4) frame.data.set([levels[ranks[i]], 0, 0, 255], i);
    context.putImageData(frame, 0, 0);
    maps.heat = pixels(small, gallery.side, true);
  }
  return maps;
}

// the two colour scales; interpolated, so that a square of few colours is as smooth as the one in the figures
function square(n, s) {
  const last = colours.side - 1, x = n * last, y = s * last, i = Math.min(last - 1, Math.floor(x)), j = Math.min(last - 1, Math.floor(y));
  const colour = (a, b, c) => colours.square[3 * (a * colours.side + b) + c], [u, v] = [x - i, y - j];
  return [0, 1, 2].map((c) => (1 - u) * ((1 - v) * colour(i, j, c) + v * colour(i, j + 1, c)) + u * ((1 - v) * colour(i + 1, j, c) + v * colour(i + 1, j + 1, c)));
}
const heat = (value) => [0, 1, 2].map((c) => colours.heat[3 * Math.round(255 * value) + c]);

function photograph(canvas, photo) {
  canvas.width = canvas.height = gallery.side;
  const context = contextOf(canvas);
  context.fillStyle = "rgb(128,128,128)"; // of what is not there any more
  context.fillRect(0, 0, gallery.side, gallery.side);
  if (photo) context.drawImage(photo, 0, 0, gallery.side, gallery.side);
  return context;
}

function drawBoxes(context, boxes) {
  for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    for (const [x0, y0, x1, y1] of boxes) {
      const inside = (v) => Math.min(gallery.side - 2, Math.max(2, v * gallery.side));
      context.strokeRect(inside(x0), inside(y0), inside(x1) - inside(x0), inside(y1) - inside(y0));
    }
  }
}

// a map over the photograph in grey, as suny.plots draws it
function paintMap(canvas, photo, maps, which, boxes) {
  const context = photograph(canvas, photo), side = gallery.side;
  const frame = context.getImageData(0, 0, side, side), pixel = frame.data, two = maps.sides;
  const n = two && which !== "sufficiency" ? (i) => two[i] / 255 : () => 0;
  const s = two && which !== "necessity" ? (i) => two[i + 1] / 255 : () => 0;
  for (let i = 0; i < pixel.length; i += 4) {
    const strength = two ? Math.max(n(i), s(i)) : maps.heat[i] / 255;
    const colour = two ? square(n(i), s(i)) : heat(strength), alpha = colours.opacity * Math.min(1, strength / colours.full);
    const grey = colours.luma[0] * pixel[i] + colours.luma[1] * pixel[i + 1] + colours.luma[2] * pixel[i + 2];
    for (let c = 0; c < 3; c++) pixel[i + c] = (1 - alpha) * grey + alpha * colour[c];
  }
  if (two) {
    outline(pixel, n, square(1, 0));
    outline(pixel, s, square(0, 1));
  }
  context.putImageData(frame, 0, 0);
  drawBoxes(context, boxes);
}

// dark outside and coloured inside of where a side is strong
function outline(pixel, value, colour) {
  const side = gallery.side, width = Math.max(1, Math.round(side / 112)), inside = new Uint8Array(side * side);
  for (let k = 0; k < inside.length; k++) inside[k] = value(4 * k) >= colours.outlined ? 1 : 0;
  const outside = inside.map((v) => 1 - v), beyond = grown(inside, width), within = grown(outside, width);
  for (let k = 0; k < inside.length; k++) {
    for (let c = 0; c < 3; c++) {
      if (beyond[k] && !inside[k]) pixel[4 * k + c] *= colours.casing;
      if (within[k] && inside[k]) pixel[4 * k + c] = colour[c];
    }
  }
}

function grown(given, width) {
  const side = gallery.side, mask = given.slice();
  for (let step = 0; step < width; step++) {
    const before = mask.slice();
    for (let k = 0; k < mask.length; k++) {
      const x = k % side;
      if (before[k] || (x && before[k - 1]) || (x < side - 1 && before[k + 1]) || before[k - side] || before[k + side]) mask[k] = 1;
    }
  }
  return mask;
}

// the photograph without, or with only, its most salient pixels
function paintArea(canvas, photo, maps, kept, share) {
  const context = photograph(canvas, photo), side = gallery.side;
  let blank = null;
  if (photo && kept && maps.substrate === "blur") {
    context.filter = `blur(${side / 40}px)`;
    context.drawImage(photo, 0, 0, side, side);
    context.filter = "none";
    blank = context.getImageData(0, 0, side, side).data;
    context.drawImage(photo, 0, 0, side, side);
  }
  const frame = context.getImageData(0, 0, side, side), pixel = frame.data;
  for (let i = 0; i < pixel.length; i += 4) {
    if (maps.rank[i] < 2.56 * share !== kept) for (let c = 0; c < 3; c++) pixel[i + c] = blank ? blank[i + c] : gallery.fill[c];
  }
  context.putImageData(frame, 0, 0);
}

// p of the class at a share of the pixels, interpolated between the recorded points; null where none was recorded
function probability(curve, share) {
  if (!curve) return null;
  const grid = gallery.grids[curve.g], x = share / 100;
  const i = grid.findIndex((g) => g >= x - 1e-9);
  if (i <= 0) return curve.p[Math.max(0, i)];
  const part = (x - grid[i - 1]) / (grid[i] - grid[i - 1]);
  return curve.p[i - 1] + Math.min(1, part) * (curve.p[i] - curve.p[i - 1]);
}

const saidP = (curve, share) => (curve ? `p ${number(probability(curve, share))}` : "p not recorded");

// p while pixels are removed, and while they alone are kept, with axes
function curves(own, share, width = 460, height = 240) {
  const space = "http://www.w3.org/2000/svg", left = 46, right = 78, bottom = 40, top = 12;
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const svg = draw("svg", { class: "curve", viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": "p while pixels are removed and kept" });
  const most = Math.max(...[own.removed, own.kept].filter(Boolean).flatMap((c) => c.p), 1e-6), ceiling = most > 0.5 ? 1 : Math.ceil(most * 20) / 20;
  const x = (v) => left + v * (width - left - right), y = (v) => top + (1 - v / ceiling) * (height - bottom - top);
  const grey = { stroke: "currentColor", "stroke-opacity": 0.25 };
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(draw("path", { d: `M${x(part)} ${top}V${y(0)}`, ...grey }), draw("path", { d: `M${left} ${y(part * ceiling)}H${x(1)}`, ...grey }));
    svg.append(draw("text", { x: x(part), y: y(0) + 15, "font-size": 11, "text-anchor": "middle" }, `${100 * part}`));
    svg.append(draw("text", { x: left - 5, y: y(part * ceiling) + 4, "font-size": 11, "text-anchor": "end" }, number(part * ceiling, 2)));
  }
  svg.append(draw("text", { x: x(0.5), y: height - 6, "font-size": 12, "text-anchor": "middle" }, "most salient pixels, %"));
  svg.append(draw("text", { x: -y(ceiling / 2), y: 11, "font-size": 12, "text-anchor": "middle", transform: "rotate(-90)" }, "p of the class"));
  const ends = [];
  for (const [name, colour, dash] of [["removed", "#2a8fd0", "none"], ["kept", "#dd7a1c", "6 3"]]) {
    if (!own[name]) continue;
    const d = gallery.grids[own[name].g].map((g, i) => `${i ? "L" : "M"}${x(g).toFixed(1)} ${y(own[name].p[i]).toFixed(1)}`).join("");
    svg.append(draw("path", { d, fill: "none", stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash }));
    ends.push([name, y(own[name].p.at(-1)), colour, dash]);
  }
  if (ends.length > 1 && Math.abs(ends[0][1] - ends[1][1]) < 14) ends[0][1] = ends[1][1] + (ends[0][1] < ends[1][1] ? -14 : 14);
  for (const [name, place, colour, dash] of ends) {
    svg.append(draw("path", { d: `M${x(1) + 4} ${place}h16`, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash }));
    svg.append(draw("text", { x: x(1) + 24, y: place + 4, "font-size": 12 }, name));
  }
  svg.append(draw("path", { d: `M${x(share / 100)} ${top}V${y(0)}`, stroke: "currentColor", "stroke-dasharray": "2 2" }));
  return svg;
}

// cards

// the places of the methods that are shown: all, or the two that are compared
const pair = () => [at("one").value, at("other").value].filter((v) => v !== "").map(Number);
const places = () => (pair().length === 2 ? pair() : gallery.methods.map((_, i) => i));
const valueOf = (entry, method) => {
  const measure = at("measure").value;
  return measure === "maps" || !measure ? null : entry.values[method]?.[measure];
};

// a card's pictures are made when it comes near the window, and dropped when it is far
async function fill(card) {
  if (card.filled) return;
  const entry = card.entry, turn = Symbol("turn");
  card.filled = true;
  card.turn = turn; // a card that was dropped and filled again is another one
  const content = (entry.content = heavy(entry.number));
  const photo = await picture(content.photo);
  if (card.turn !== turn) return;
  card.drawn = [];
  const first = make("div", null, { class: "tile photo" });
  if (content.photo) {
    const canvas = first.appendChild(make("canvas", null, { role: "img", "aria-label": `image ${entry.id}${content.boxes.length ? ", with the object's boxes" : ""}` }));
    drawBoxes(photograph(canvas, photo), content.boxes);
  } else first.appendChild(make("div", "no photograph", { class: "empty" }));
  first.appendChild(make("div", `input${entry.p === null ? "" : `, p ${number(entry.p)}`}`, { class: "name" }));
  const tiles = content.photo || gallery.stored ? [first] : [];
  const known = places().filter((index) => entry.values[index]);
  if (!gallery.stored) {
    tiles.push(numbersOf(entry, known));
  } else {
    for (const index of known) tiles.push(await tile(card, index, content, photo));
  }
  if (card.turn !== turn) return;
  card.tiles.replaceChildren(...tiles);
  card.classList.add("drawn");
  card.ready = true;
}

async function tile(card, index, content, photo) {
  const entry = card.entry, method = gallery.methods[index], own = content.maps[index];
  const element = make("div", null, { class: "tile" });
  const button = element.appendChild(make("button", null, { class: "open", type: "button", "aria-label": `enlarge ${method}` }));
  button.addEventListener("click", () => { hideCurves(); enlarge(entry, index).then(() => at("large").showModal()); });
  const name = element.appendChild(make("div", null, { class: "name" }));
  name.appendChild(make("span", method));
  const pin = name.appendChild(make("button", "pin", { type: "button", "aria-pressed": String(pair().includes(index)), "aria-label": `pin ${method} to compare` }));
  pin.addEventListener("click", () => pinned(index));
  const text = element.appendChild(make("div", null, { class: "text" }));
  if (own?.rank) {
    const maps = await unpack(own);
    card.drawn.push({ index, button, text, photo, maps, own, boxes: content.boxes });
    draw(card, card.drawn.at(-1));
    if (own.removed || own.kept) {
      for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => showCurves(button, own));
      for (const event of ["mouseleave", "blur"]) button.addEventListener(event, hideCurves);
    }
  } else {
    button.appendChild(make("div", "no map stored", { class: "empty" }));
    text.textContent = said(entry, index);
  }
  return element;
}

const said = (entry, method) => (at("measure").value === "maps" || !at("measure").value ? "" : `${at("measure").value} ${number(valueOf(entry, method))}`);

// without maps the numbers alone: a line for each method
function numbersOf(entry, known) {
  const element = make("div", null, { class: "tile" });
  const rows = known.map((index) => [{ t: gallery.methods[index] }, ...gallery.measures.map((m) => ({ t: number(entry.values[index]?.[m]), v: entry.values[index]?.[m] ?? null }))]);
  element.appendChild(sortable({ title: `numbers of ${entry.id}`, head: ["method", ...gallery.measures], rows, key: Math.max(1, gallery.measures.indexOf(gallery.first) + 1) }));
  if (gallery.grids.length) {
    const button = element.appendChild(make("button", "Curves and numbers", { type: "button" }));
    button.addEventListener("click", () => enlarge(entry, known[0]).then(() => at("large").showModal()));
  }
  return element;
}

function draw(card, tile) {
  const share = Number(at("area").value), area = chosen("mode") === "area", which = chosen("side");
  const panel = (paint, text, label) => {
    const figure = make("figure"), canvas = figure.appendChild(make("canvas", null, { role: "img", "aria-label": label }));
    paint(canvas);
    if (text) figure.appendChild(make("figcaption", text));
    return figure;
  };
  const method = gallery.methods[tile.index];
  if (area) {
    tile.button.replaceChildren(
      panel((c) => paintArea(c, tile.photo, tile.maps, false, share), `removed: ${saidP(tile.own.removed, share)}`, `${method}: pixels removed`),
      panel((c) => paintArea(c, tile.photo, tile.maps, true, share), `kept: ${saidP(tile.own.kept, share)}`, `${method}: pixels kept`),
    );
  } else {
    tile.button.replaceChildren(panel((c) => paintMap(c, tile.photo, tile.maps, which, tile.boxes), "", `map of ${method}`));
  }
  const weak = tile.maps.weak.map((side) => `${side} near 0`).join(", ");
  tile.text.replaceChildren(said(card.entry, tile.index), ...(weak ? [make("div", weak, { class: "weak" })] : []));
}

function drop(card) {
  if (!card.filled) return;
  card.filled = card.ready = false;
  card.turn = null;
  card.drawn = [];
  card.entry.content = null;
  card.classList.remove("drawn");
  card.tiles.replaceChildren();
}

function showCurves(button, own) {
  const box = at("hover"), place = button.getBoundingClientRect();
  box.replaceChildren(curves(own, Number(at("area").value), 380, 210));
  box.hidden = false;
  const own_ = box.getBoundingClientRect(), below = place.bottom + own_.height + 8 < innerHeight;
  box.style.left = `${Math.max(4, Math.min(place.left, innerWidth - own_.width - 4))}px`;
  box.style.top = `${below ? place.bottom + 4 : Math.max(4, place.top - own_.height - 4)}px`;
}

function hideCurves() {
  at("hover").hidden = true;
}

// two pins are two methods to compare; a third one takes the place of the second
function pinned(index) {
  const now = pair(), left = now.includes(index) ? now.filter((i) => i !== index) : [...now.slice(0, 1), index];
  at("one").value = left[0] ?? "";
  at("other").value = left[1] ?? "";
  compare();
}

function compare() {
  at("cards").classList.toggle("pair", pair().length === 2);
  for (const card of cards) drop(card);
  arrange();
  observe();
}

const near = new IntersectionObserver(
  (entries) => entries.forEach((e) => (e.isIntersecting ? fill(e.target) : drop(e.target))),
  { rootMargin: "300px" },
);

function observe() {
  near.disconnect();
  cards.forEach((card) => near.observe(card));
}

let redrawing = false;
function redraw() {
  at("area-value").textContent = `${at("area").value} %`;
  at("cards").classList.toggle("area", chosen("mode") === "area");
  at("area-label").hidden = !gallery.stored && !gallery.grids.length;
  if (redrawing) return;
  redrawing = true;
  requestAnimationFrame(() => {
    redrawing = false;
    for (const card of cards) if (card.filled && !card.hidden) for (const tile of card.drawn || []) draw(card, tile);
  });
}

// how far methods differ on an image: all of them, or the two that are compared
function spread(entry) {
  const name = at("measure").value;
  if (name === "maps") return entry.disagreement;
  const two = pair();
  if (two.length === 2) {
    const [a, b] = two.map((i) => entry.values[i]?.[name]);
    return a === undefined || b === undefined ? null : Math.abs(a - b);
  }
  return entry.spreads[name] ?? null;
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
  at("gallery-note").textContent = `${gallery.note} ${Math.round(data.bytes / 1000)} kB of this page per image.`;
  const classes = [...new Set(gallery.images.flatMap((e) => e.classes))].sort((a, b) => a.localeCompare(b));
  options(at("class"), [["", "all"], ...classes.map((c) => [c, c])]);
  const failures = [...new Set(gallery.images.flatMap((e) => e.failures))].sort();
  options(at("failure"), [["", "all images"], ...failures.map((f) => [f, f === "none" ? "without failure" : f])]);
  options(at("measure"), [...gallery.measures.map((m) => [m, m]), ...(gallery.compared ? [["maps", "the maps themselves"]] : [])]);
  if (gallery.first) at("measure").value = gallery.first;
  options(at("order"), [["image", "as in the data"], ["spread", "most disagreement first"], ["p", "p, largest first"], ["-p", "p, smallest first"]]);
  options(at("one"), [["", "all methods"], ...gallery.methods.map((m, i) => [i, m])]);
  options(at("other"), [["", "none"], ...gallery.methods.map((m, i) => [i, m])]);
  at("modes").hidden = at("scales").querySelector("#heat-legend").hidden = !gallery.stored;
  at("sides").hidden = at("square-legend").hidden = !gallery.sides;
  cards = gallery.images.map((entry) => {
    const card = make("article", null, { class: gallery.stored ? "card" : "card numbers" });
    const title = card.appendChild(make("h3", entry.title));
    for (const failure of entry.failures) if (failure !== "none") title.appendChild(make("span", failure, { class: "tag" }));
    if (entry.warnings.length) {
      const list = card.appendChild(make("ul", null, { class: "warnings" }));
      for (const warning of entry.warnings) list.appendChild(make("li", warning));
    }
    card.tiles = card.appendChild(make("div", null, { class: "tiles" }));
    card.entry = entry;
    entry.text = `${entry.id} ${entry.classes.join(" ")}`.toLowerCase();
    return card;
  });
  at("cards").classList.remove("pair");
  at("cards").replaceChildren(...cards);
  arrange();
  redraw();
  observe();
}

// one image, large

async function enlarge(entry, method) {
  opened = { entry, method };
  const content = heavy(entry.number);
  at("large-title").textContent = entry.title;
  at("large-facts").textContent = [entry.facts, ...entry.warnings].join("; ");
  options(at("large-method"), gallery.methods.map((m, i) => [i, m]).filter(([i]) => entry.values[i]));
  at("large-method").value = method;
  at("large-area").value = at("area").value;
  const own = content.maps[method];
  const [photo, maps] = await Promise.all([picture(content.photo), unpack(own)]);
  if (opened.entry !== entry || opened.method !== method) return; // overtaken by the next one
  Object.assign(opened, { content, photo, maps });
  showLarge();
}

function showLarge() {
  if (!opened?.content) return; // still on its way
  const { entry, method, content, photo, maps } = opened;
  const share = Number(at("large-area").value), own = content.maps[method];
  at("large-area-value").textContent = `${share} %`;
  const panel = (text, paint) => {
    const figure = make("figure"), canvas = figure.appendChild(make("canvas", null, { role: "img", "aria-label": text }));
    paint(canvas);
    figure.appendChild(make("figcaption", text));
    return figure;
  };
  const panels = [];
  if (photo || maps.rank) panels.push(panel(`input, p ${number(entry.p)}`, (c) => drawBoxes(photograph(c, photo), content.boxes)));
  if (maps.heat) panels.push(panel(`${gallery.methods[method]}: map`, (c) => paintMap(c, photo, maps, "both", content.boxes)));
  if (maps.sides) {
    for (const side of ["necessity", "sufficiency", "both"]) {
      panels.push(panel(side + (maps.weak.includes(side) ? " near 0" : ""), (c) => paintMap(c, photo, maps, side, content.boxes)));
    }
  }
  if (maps.rank) {
    const over = own.substrate === "blur" ? ", over a blur" : "";
    panels.push(panel(`${share} % removed, ${saidP(own.removed, share)}`, (c) => paintArea(c, photo, maps, false, share)));
    panels.push(panel(`${share} % kept${over}, ${saidP(own.kept, share)}`, (c) => paintArea(c, photo, maps, true, share)));
  }
  at("large-pictures").replaceChildren(...panels);
  at("large-curves").replaceChildren(...(own?.removed || own?.kept ? [curves(own, share)] : []));
  const rows = gallery.measures.map((name) => [
    { t: name }, ...gallery.methods.map((_, i) => ({ t: number(entry.values[i]?.[name]), v: entry.values[i]?.[name] ?? null })),
  ]);
  at("large-numbers").replaceChildren(sortable({ title: "numbers of this image", head: ["number", ...gallery.methods], rows }));
}

function step(by) {
  const place = shown.findIndex((card) => card.entry === opened.entry) + by;
  if (shown[place]) enlarge(shown[place].entry, opened.method);
}

// print: all tables, and the pictures of the first images that are shown

const PRINTED = 60; // as the page says

async function prepare() {
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  await Promise.all(shown.slice(0, PRINTED).map(fill));
  while (shown.slice(0, PRINTED).some((card) => !card.ready)) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function print_() {
  near.disconnect();
  await prepare();
  window.print();
  observe();
}

// start

function drawScales() {
  const canvas = at("square"), bar = at("heat"), context = canvas.getContext("2d"), line = bar.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    for (let y = 0; y < canvas.height; y++) {
      context.fillStyle = `rgb(${square(1 - y / (canvas.height - 1), x / (canvas.width - 1)).map(Math.round).join(",")})`;
      context.fillRect(x, y, 1, 1);
    }
  }
  for (let x = 0; x < bar.width; x++) {
    line.fillStyle = `rgb(${heat(x / (bar.width - 1)).join(",")})`;
    line.fillRect(x, 0, 1, bar.height);
  }
}

at("filters").open = !narrow.matches;
at("print").addEventListener("click", print_);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideCurves();
  if (event.key === "p" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); print_(); }
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
if (data.galleries.length) {
  drawScales();
  options(at("gallery"), data.galleries.map((g, i) => [i, g.title]));
  at("gallery").addEventListener("change", () => open(Number(at("gallery").value)));
  for (const id of ["search", "spread"]) at(id).addEventListener("input", select);
  for (const id of ["class", "failure"]) at(id).addEventListener("change", select);
  for (const id of ["one", "other"]) at(id).addEventListener("change", compare);
  at("order").addEventListener("change", arrange);
  at("measure").addEventListener("change", () => { arrange(); redraw(); });
  at("area").addEventListener("input", redraw);
  document.querySelectorAll("input[name=mode], input[name=side]").forEach((radio) => radio.addEventListener("change", redraw));
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
  at("controls").hidden = at("scales").hidden = true;
  at("no-images").hidden = false;
}
