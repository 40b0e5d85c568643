"use strict";
// All texts of the data set reach the page as textContent, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 640px)");

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// the columns of a table in the order in which they are shown: on a narrow screen the key column follows the rows' names
function order(table) {
  const columns = table.head.map((_, column) => column);
  if (!narrow.matches || !table.key) return columns;
  return [0, table.key, ...columns.filter((column) => column !== 0 && column !== table.key)];
}

function sortable(table) {
  const frame = make("div", null, { class: "frame" });
  const box = frame.appendChild(make("div", null, { class: "scroll", tabindex: "0", role: "region", "aria-label": [table.group, table.title].filter(Boolean).join(": ") }));
  const element = box.appendChild(make("table"));
  const head = element.appendChild(make("thead")).appendChild(make("tr"));
  const body = element.appendChild(make("tbody"));
  const columns = order(table);
  for (const row of table.rows) {
    const line = body.appendChild(make("tr"));
    columns.forEach((column, place) => {
      const cell = row[column];
      const element = line.appendChild(make(place ? "td" : "th", cell.t, { ...(cell.k ? { class: cell.k } : {}), ...(place ? {} : { scope: "row", title: cell.t }) }));
      element.value = cell.v === undefined ? cell.t : cell.v;
    });
  }
  columns.forEach((column, place) => {
    const th = head.appendChild(make("th", null, { scope: "col" }));
    const button = th.appendChild(make("button", table.head[column], { type: "button" }));
    button.addEventListener("click", () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      for (const other of head.children) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortRows(body, place, down ? -1 : 1);
    });
  });
  const more = () => frame.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", more, { passive: true });
  widths.observe(box);
  box.more = more;
  return frame;
}

// a shadow says that a table goes on
const widths = new ResizeObserver((entries) => entries.forEach((e) => e.target.more()));

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

// a table as text

const markdown = (table) => {
  const line = (cells) => `| ${cells.map((c) => c.replaceAll("|", "\\|").replace(/\s+/g, " ")).join(" | ")} |`;
  return [line(table.head), line(table.head.map(() => "---")), ...table.rows.map((r) => line(r.map((c) => c.t)))].join("\n") + "\n";
};

// numbers in full, and the ends of their intervals in columns of their own
function csv(table) {
  const intervals = table.head.map((_, column) => table.rows.some((r) => r[column].i));
  const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const text = (value) => (value === null || value === undefined ? "" : quoted(String(value)));
  const head = table.head.flatMap((title, column) => (intervals[column] ? [title, `${title} low`, `${title} high`] : [title]));
  const rows = table.rows.map((row) => row.flatMap((cell, column) => {
    const own = cell.v ?? (cell.t === "-" ? "" : cell.t);
    return intervals[column] ? [own, ...(cell.i ?? ["", ""])] : [own];
  }));
  return [head, ...rows].map((line) => line.map(text).join(",")).join("\n") + "\n";
}

function latex(table) {
  const signs = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "★": "$\\star$", "†": "$\\dagger$" };
  const tex = (text) => text.replace(/[\\~^&%$#_{}↑↓★†]/g, (c) => signs[c] ?? `\\${c}`);
  const line = (cells) => `${cells.join(" & ")} \\\\`;
  const cell = (c) => (c.k === "best" ? `\\textbf{${tex(c.t)}}` : c.k === "second" ? `\\underline{${tex(c.t)}}` : tex(c.t));
  return [
    "% \\usepackage{booktabs}", `\\begin{tabular}{l${"r".repeat(table.head.length - 1)}}`, "\\toprule", line(table.head.map(tex)), "\\midrule",
    ...table.rows.map((r) => line(r.map(cell))), "\\bottomrule", "\\end{tabular}",
  ].join("\n") + "\n";
}

async function copy(text, status) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page from a file may not be allowed to
    const area = document.body.appendChild(make("textarea", text));
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  status.textContent = "copied";
}

function copying(table) {
  const line = make("div", null, { class: "copy" });
  line.append("Copy as ");
  const status = make("span", null, { role: "status" });
  for (const [name, text] of [["Markdown", markdown], ["CSV", csv], ["LaTeX", latex]]) {
    const button = line.appendChild(make("button", name, { type: "button", "aria-label": `Copy ${table.title} as ${name}` }));
    button.addEventListener("click", () => copy(text(table), status));
  }
  line.append(status);
  return line;
}

function showTables(section, groups) {
  groups.forEach((group, index) => {
    const details = section.appendChild(make("details"));
    details.open = index === 0;
    details.appendChild(make("summary", group.title));
    for (const text of group.texts) details.appendChild(make("p", text));
    for (const table of group.tables) {
      table.group = group.title;
      details.appendChild(make("h3", table.title));
      for (const text of table.texts) details.appendChild(make("p", text));
      const place = details.appendChild(sortable(table));
      details.appendChild(copying(table));
      narrow.addEventListener("change", () => {
        const old = details.querySelectorAll(".frame")[group.tables.indexOf(table)];
        (old ?? place).replaceWith(sortable(table));
      });
    }
  });
}

showTables(at("tables"), data.tables);
showTables(at("cells"), data.cells);
