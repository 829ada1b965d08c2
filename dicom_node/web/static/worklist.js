// Keys through the rows, and rows that follow what happens.
import { onKey } from "./keys.js";
import { onChange, reloadParts } from "./live.js";
import { showLocalTimes } from "./times.js";

let chosen = null; // the address of the study

function rows() {
  return [...document.querySelectorAll("#rows tr[data-href]")];
}

function choose(step) {
  const all = rows();
  if (all.length === 0) return;
  const at = all.findIndex((row) => row.dataset.href === chosen);
  const to = at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1);
  chosen = all[to].dataset.href;
  mark();
  all[to].querySelector("th a").focus();
}

function mark() {
  for (const row of rows()) row.classList.toggle("chosen", row.dataset.href === chosen);
}

onKey("j", () => choose(1));
onKey("k", () => choose(-1));

const list = document.getElementById("rows");
if (list && !("still" in list.dataset)) {
  const told = document.getElementById("live");
  const stream = onChange("worklist", async () => {
    (await reloadParts(["rows"])).forEach(showLocalTimes);
    mark();
  });
  const say = () => {
    told.textContent = stream.readyState === EventSource.OPEN ? "Live" : "";
  };
  stream.addEventListener("open", say);
  stream.addEventListener("error", say);
}
