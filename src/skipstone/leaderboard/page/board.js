"use strict";
// Which cost is drawn, and which kinds of policies are seen.
const form = document.querySelector("form");
function show() {
  const chosen = new FormData(form);
  document.documentElement.dataset.cost = chosen.get("cost");
  const kinds = chosen.getAll("kind");
  for (const one of document.querySelectorAll("[data-kind]")) {
    one.toggleAttribute("data-off", !kinds.includes(one.dataset.kind) && one.dataset.kind !== "exact");
  }
}
form.addEventListener("change", show);
// A row that is linked to lies in a table that may be closed.
function open() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const table = target.closest("details");
  if (table) table.open = true;
  target.scrollIntoView();
  if (target.tabIndex === -1) target.focus();
}
addEventListener("hashchange", open);
// Escape leads back to the link that was followed; following it again leads there again.
let followed = null;
addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  followed = link;
  if (link.getAttribute("href") === location.hash) open();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !followed) return;
  followed.focus();
  followed = null;
});
show();
open();
