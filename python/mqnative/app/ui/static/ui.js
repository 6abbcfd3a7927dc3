// Formatters for grids, colours of the theme, and clicks in drawings.
window.mq = (() => {
  const digits = (value, n) => (value === 0 ? "0" : Number(value.toPrecision(n)).toString());
  const bytes = (value) => {
    if (value === null || value === undefined) return "";
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (value < 999.5) return unit === "B" ? `${value} B` : `${value.toPrecision(3)} ${unit}`;
      value /= 1000;
    }
    return `${value.toPrecision(3)} TB`;
  };
  const superscript = (n) => String(n).replace(/[-\d]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  const small = (value) => {
    if (value === null || value === undefined) return "";
    if (value === 0) return "0";
    if (value >= 1e-4) return value.toPrecision(3);
    const [mantissa, exponent] = value.toExponential(1).split("e");
    return `${mantissa}×10${superscript(Number(exponent))}`;
  };
  const count = (value) => (value === null || value === undefined ? "" : value.toLocaleString("en"));
  const of = (format) => (params) => format(params.value);
  return {
    bytes: of(bytes),
    small: of(small),
    count: of(count),
    fixed2: of((v) => (v === null || v === undefined ? "" : v.toFixed(2))),
    whole: of((v) => (v === null || v === undefined ? "" : digits(v, 3))),
    pin: of((v) => (v ? "pinned" : "")),
    typeClass: (params) => (params.data ? `type-cell q${params.data.step}` : ""),
    rowId: (params) => params.data.name,
    key: (params) => {
      const key = params.event.key.toLowerCase();
      if (["enter", "p"].includes(key)) emitEvent("row", { name: params.node.id, key });
    },
    differs: (params) => Boolean(params.data && params.data.differs),
  };
})();

const THEMES = ["auto", "light", "dark"];
function applyTheme(theme) {
  Quasar.Dark.set(theme === "auto" ? "auto" : theme === "dark");
  document.body.dataset.theme = theme;
  const button = document.querySelector("[data-theme-button]");
  if (button) button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "automatic" : theme}`);
}
function storedTheme() {
  try {
    return THEMES.includes(localStorage.mqTheme) ? localStorage.mqTheme : "auto";
  } catch {
    return "auto";
  }
}
const themeWait = setInterval(() => {
  if (!window.Quasar || !document.querySelector("[data-theme-button]")) return;
  clearInterval(themeWait);
  applyTheme(storedTheme());
}, 20);

// Quasar's rules for any div behind any other (in fields and clocks) make the browser style every row of a grid
// anew for each row that scrolls in: ten times the work. This page does without their few pixels.
const GREEDY = /(\* \+ \*|div \+ div)$/;
function dropGreedyRules(sheet) {
  for (let i = sheet.cssRules.length - 1; i >= 0; i -= 1) {
    const rule = sheet.cssRules[i];
    if (rule.styleSheet) dropGreedyRules(rule.styleSheet);
    else if (GREEDY.test(rule.selectorText || "")) sheet.deleteRule(i);
  }
}
window.addEventListener("load", () => [...document.styleSheets].forEach(dropGreedyRules));

// Tables sort by a click on a head; one that is drawn anew keeps its order.
const orders = new Map();
const orderKey = (table) => `${location.pathname} ${table.caption?.textContent}`;
function sortTables() {
  for (const table of document.querySelectorAll("table.sortable:not([data-ready])")) {
    table.dataset.ready = "";
    makeSortable(table);
    const [column, order] = orders.get(orderKey(table)) || [];
    const head = table.tHead.rows[0].cells[column];
    for (let i = 0; i < 2 && head && head.getAttribute("aria-sort") !== order; i += 1) {
      head.querySelector("button")?.click();
    }
  }
}
document.addEventListener("click", (event) => {
  const head = event.target.closest?.("table.sortable thead th[aria-sort]");
  if (head) orders.set(orderKey(head.closest("table")), [head.cellIndex, head.getAttribute("aria-sort")]);
});
let sortWait = 0;
new MutationObserver(() => {
  sortWait ||= setTimeout(() => {
    sortWait = 0;
    sortTables();
  }, 50);
}).observe(document, { childList: true, subtree: true });

function choose(target) {
  const pick = target.closest?.(".pick[data-type]");
  if (pick) emitEvent("pick", { type: pick.dataset.type });
  return Boolean(pick);
}
document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-theme-button]")) {
    const next = THEMES[(THEMES.indexOf(storedTheme()) + 1) % THEMES.length];
    try {
      localStorage.mqTheme = next;
    } catch {
      // private windows may refuse; the theme holds for this page then
    }
    applyTheme(next);
    return;
  }
  choose(event.target);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    if (choose(event.target)) event.preventDefault();
    return;
  }
  const typing = event.target.closest?.("input, textarea, [contenteditable]");
  if (typing || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
  event.preventDefault();
  emitEvent(event.shiftKey ? "redo" : "undo", {});
});
