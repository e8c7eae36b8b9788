"use strict";

// Print everything: also the sections for experts, with all details open. Otherwise the style leaves them out.
const all = document.getElementById("all");
all.hidden = false;
all.addEventListener("click", () => {
  const closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((each) => { each.open = true; });
  document.documentElement.classList.add("all");
  print();
  document.documentElement.classList.remove("all");
  closed.forEach((each) => { each.open = false; });
});

// Commands: a button copies, and says so.
for (const button of document.querySelectorAll(".copy button")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// Tables: a button in each heading sorts by its column: best first, then worst first, then the original order.
// The figure of a cell is in data-sort; cells without a figure stay at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows];
  const figure = (row, column) => {
    let index = 0;
    for (const cell of row.cells) {
      index += cell.colSpan;
      if (index > column) return "sort" in cell.dataset ? Number(cell.dataset.sort) : null;
    }
    return null;
  };
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    if (!head.dataset.better) return;
    const first = head.dataset.better === "lower" ? "ascending" : "descending";
    const second = first === "ascending" ? "descending" : "ascending";
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.ariaSort, next = now === first ? second : now === second ? null : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const rows = next === null ? original : [...original].sort((a, b) => {
        const x = figure(a, column), y = figure(b, column);
        return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
      });
      body.append(...rows);
    });
  });
}

// Charts: the description of a mark, beside the pointer. Without this script the browser shows the mark's <title>.
const tip = document.getElementById("tip");
const hide = () => { tip.hidden = true; };
const show = (event) => {
  const mark = event.target.closest?.("svg.chart path"), title = mark?.querySelector("title");
  // Otherwise the browser would show the title as well.
  if (title) { mark.dataset.tip = title.textContent; title.remove(); }
  if (!mark?.dataset.tip) return hide();
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const box = mark.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - size.width / 2), document.documentElement.clientWidth - size.width - 8);
  const above = box.top - size.height - 8;
  tip.style.transform = `translate(${left}px, ${scrollY + (above < 8 ? box.bottom + 8 : above)}px)`;
};
addEventListener("pointerover", show);
addEventListener("pointerdown", show);
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

// Contents: mark the visible section.
const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    const link = links.get(entry.target.id), list = link.closest("ul");
    link.setAttribute("aria-current", "true");
    list.scrollTo({ left: link.offsetLeft - list.clientWidth / 2, behavior: "instant" });
  }
}, { rootMargin: "-20% 0px -70% 0px" });
document.querySelectorAll("main > section").forEach((section) => reading.observe(section));
