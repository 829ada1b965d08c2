// Parts of a page that follow what happens: each names its topic in data-live and has an id.
import { onChange, reloadParts } from "./live.js";
import { showLocalTimes } from "./times.js";

const parts = [...document.querySelectorAll("[data-live][id]")];
const ids = parts.map((part) => part.id);
for (const topic of new Set(parts.map((part) => part.dataset.live))) {
  onChange(topic, async () => (await reloadParts(ids)).forEach(showLocalTimes));
}

// What takes the server some time comes after the page.
for (const place of document.querySelectorAll("[data-load]")) {
  fetch(place.dataset.load, { redirect: "manual" })
    .then(async (answer) => {
      if (!answer.ok) throw new Error(String(answer.status));
      const made = new DOMParser().parseFromString(await answer.text(), "text/html");
      place.replaceChildren(...made.body.childNodes);
      showLocalTimes(place);
    })
    .catch(() => place.replaceChildren("This could not be loaded: reload the page."));
}
