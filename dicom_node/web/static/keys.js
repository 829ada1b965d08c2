// Keys: a page names them in <dialog id="keys">; they are off while somebody types.
const handlers = new Map();

export function onKey(key, act) {
  handlers.set(key, act);
}

function isTyping(target) {
  const kinds = "input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select";
  return target instanceof Element && (target.matches(kinds) || target.isContentEditable);
}

export function installHelp() {
  onKey("?", () => document.getElementById("keys")?.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const act = handlers.get(event.key);
    if (act && act(event) !== false) event.preventDefault();
  });
}
