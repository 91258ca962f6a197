"""The page's one script: long tables can be searched and sorted. Without it, nothing is missing but that.

The page's policy names its hash, so that no other script runs, whatever a store's names and texts try.
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["SCRIPT", "SOURCE_HASH"]

SCRIPT = """
for (const table of document.querySelectorAll("table.long")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = `search ${rows.length} rows`;
  search.setAttribute("aria-label", search.placeholder);
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  table.parentElement.before(search);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    button.title = "sort";
    head.replaceChildren(button);
    const text = (row) => row.cells[column].textContent, value = (row) => parseFloat(text(row));
    const numbers = head.classList.contains("number");
    let sign = numbers ? 1 : -1;  // numbers from the largest, names from the first
    button.addEventListener("click", () => {
      sign = -sign;
      body.append(...rows.toSorted((a, b) => numbers
        ? isNaN(value(a)) - isNaN(value(b)) || sign * (value(a) - value(b))
        : sign * text(a).localeCompare(text(b), "en", { numeric: true })));
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    });
  });
}
"""
SOURCE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
