"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const sortBy = (column) => {
    const falling = heads[column].getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.sort;
    const compare = (one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = column ? Number(a) - Number(b) : a.localeCompare(b);
      return falling ? -order : order;
    };
    const rows = [...body.rows].filter((row) => !row.classList.contains("pinned"));
    rows.sort(compare).forEach((row) => body.append(row));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
  };
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => sortBy(column)));
}
