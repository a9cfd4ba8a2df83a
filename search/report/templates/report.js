"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const sortBy = (column) => {
    const descending = heads[column].getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.sort;
    const compare = (first, second) => {
      const [a, b] = [key(first), key(second)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = column ? Number(a) - Number(b) : a.localeCompare(b);
      return descending ? -order : order;
    };
    const rows = [...body.rows].filter((row) => !row.classList.contains("pinned"));
    rows.sort(compare).forEach((row) => body.append(row));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => sortBy(column)));
}
