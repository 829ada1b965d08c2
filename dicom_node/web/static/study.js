// The study page: keys, the picture, and word that the page is out of date.
import { onKey } from "./keys.js";
import { ask, onChange } from "./live.js";
import { MOVE, STEP, Viewer } from "./viewer.js";

const page = document.getElementById("study").dataset;

function turnTo(address) {
  if (!address) return false;
  location.assign(address);
  return true;
}

onKey("j", () => turnTo(page.next));
onKey("k", () => turnTo(page.previous));
document.querySelectorAll('nav[aria-label="Images of the study"] a').forEach((tab, at) => {
  if (at < 9) onKey(String(at + 1), () => turnTo(tab.href));
});

const root = document.getElementById("viewer");
if (root) {
  const viewer = new Viewer(root);
  const acts = {
    o: () => viewer.toggleOverlay(),
    "[": () => viewer.strengthen(-10),
    "]": () => viewer.strengthen(10),
    "+": () => viewer.size(STEP),
    "=": () => viewer.size(STEP),
    "-": () => viewer.size(1 / STEP),
    i: () => viewer.invert(),
    r: () => viewer.reset(),
    ArrowLeft: () => viewer.pan(MOVE, 0),
    ArrowRight: () => viewer.pan(-MOVE, 0),
    ArrowUp: () => viewer.pan(0, MOVE),
    ArrowDown: () => viewer.pan(0, -MOVE),
  };
  for (const [key, act] of Object.entries(acts)) {
    // The page scrolls by its arrows unless the picture is what is being looked at.
    const isForPicture = () => !key.startsWith("Arrow") || root.contains(document.activeElement);
    onKey(key, (event) => (isForPicture() && !isSlider(event) ? act() : false));
  }
}

function isSlider(event) {
  return event.target instanceof HTMLInputElement && event.target.type === "range";
}

onChange("worklist", async () => {
  const answer = await ask(page.state, "application/json");
  if (!answer) return;
  const now = await answer.json();
  const before = { revision: Number(page.revision), reading: page.reading, study: page.study };
  const differs = Object.keys(before).some((name) => before[name] !== now[name]);
  if (differs) document.getElementById("changed").hidden = false;
});
