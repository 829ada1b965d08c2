// The server says that something changed, never what: a page then asks for itself again.
const PAUSE = 5_000; // between two readings of a page: each is an event of the audit
const SLOW = 60_000; // without a word: time makes a result late, and a word or a reading may be lost

const followers = []; // { topic, isDue, last, act }
let stream = null;

function runDue() {
  if (document.hidden) return;
  for (const follower of followers) {
    const age = performance.now() - follower.last;
    if (age < (follower.isDue ? PAUSE : SLOW)) continue;
    follower.isDue = false;
    follower.last = performance.now();
    follower.act();
  }
}

function begin() {
  const since = document.querySelector("[data-since]")?.dataset.since;
  stream = new EventSource(since ? `/events?since=${since}` : "/events");
  stream.addEventListener("changed", (event) => {
    const topics = event.data.split(" ");
    for (const each of followers) each.isDue ||= topics.includes(each.topic);
    runDue();
  });
  setInterval(runDue, 1_000);
  document.addEventListener("visibilitychange", runDue);
  addEventListener("pagehide", () => stream.close());
}

export function onChange(topic, act) {
  if (!stream) begin();
  followers.push({ topic, act, isDue: false, last: 0 }); // 0: when the page was made
  return stream;
}

// Asks the node; whoever is not logged in any more must not go on looking at patients.
export async function ask(address, accept) {
  const answer = await fetch(address, { headers: { Accept: accept }, redirect: "manual" });
  if (answer.type === "opaqueredirect" || answer.status === 401) location.reload();
  return answer.ok ? answer : null;
}

export async function reloadParts(ids) {
  const answer = await ask(location.href, "text/html");
  if (!answer) return [];
  const made = new DOMParser().parseFromString(await answer.text(), "text/html");
  return ids.map((id) => replacePart(id, made.getElementById(id))).filter(Boolean);
}

// Where somebody is at a control of the part, it stays as it is: typing and focus are not lost.
function replacePart(id, made) {
  const here = document.getElementById(id);
  if (!made || !here) return null;
  const active = here.contains(document.activeElement) ? document.activeElement : null;
  if (active && !active.matches("a[href]")) return null;
  here.replaceWith(made);
  const same = active && made.querySelector(`a[href="${CSS.escape(active.getAttribute("href"))}"]`);
  same?.focus({ preventScroll: true });
  return made;
}
