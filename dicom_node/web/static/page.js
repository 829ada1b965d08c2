// What every page has: the switch of colours, times in the reader's own zone, help on the keys.
import { showLocalTimes } from "./times.js";
import { installHelp } from "./keys.js";

const YEAR = 365 * 24 * 3600;

function installThemeSwitch() {
  const chosen = document.getElementById("theme");
  chosen?.addEventListener("change", () => {
    document.documentElement.dataset.theme = chosen.value;
    const secure = location.protocol === "https:" ? "; secure" : "";
    document.cookie = `theme=${chosen.value}; path=/; max-age=${YEAR}; samesite=lax${secure}`;
  });
}

function installRowLinks() {
  document.addEventListener("click", (event) => {
    const control = event.target.closest("a, button, input, select, label, summary");
    const row = event.target.closest("tr[data-href]");
    if (row && !control && !String(getSelection())) location.assign(row.dataset.href);
  });
}

installThemeSwitch();
installRowLinks();
installHelp();
showLocalTimes(document);
