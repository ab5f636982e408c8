"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.textContent = "";
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const isNumber = Array.from(body.rows).every((row) => key(row) !== "" && !Number.isNaN(Number(key(row))));
      const compare = isNumber ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
      body.append(...Array.from(body.rows).sort((a, b) => (down ? compare(b, a) : compare(a, b))));
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

const dialog = document.querySelector("dialog");
const large = dialog.querySelector("img");
document.addEventListener("click", (event) => {
  const small = event.target.closest(".larger")?.querySelector("img");
  if (!small) return;
  large.src = small.src;
  large.alt = small.alt;
  large.width = Math.max(small.naturalWidth, Number(small.getAttribute("width")) * 1.3);
  dialog.showModal();
});
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
const cards = new Map();
for (const image of document.querySelectorAll("[hidden] > img[id^=card_]")) cards.set(image.id, image);
for (const choice of document.querySelectorAll(".card-choice")) {
  cards.set(choice.value, choice.closest(".place").querySelector("img").cloneNode());
}
for (const choice of document.querySelectorAll(".card-choice")) {
  choice.addEventListener("change", () => {
    const shown = choice.closest(".place").querySelector("img");
    const wanted = cards.get(choice.value);
    shown.src = wanted.src;
    shown.alt = wanted.alt;
  });
}
