// The server says that something changed, never what: the page then asks for itself again.
const PAUSE = 5_000; // between two readings of a page: each is an event of the audit
const SLOW = 60_000; // without a stream

export function onChange(topic, act) {
  let due = false;
  let last = 0;

  const run = async () => {
    if (!due || document.hidden || Date.now() - last < PAUSE) return;
    due = false;
    last = Date.now();
    await act();
  };

  const want = () => {
    due = true;
    run();
  };

  setInterval(run, 1_000);
  document.addEventListener("visibilitychange", run);
  const stream = new EventSource("/events");
  stream.addEventListener("changed", (event) => {
    if (event.data.split(" ").includes(topic)) want();
  });
  // A stream that is refused does not come back by itself.
  setInterval(() => stream.readyState === EventSource.CLOSED && want(), SLOW);
  addEventListener("pagehide", () => stream.close());
  return stream;
}

export async function reloadPart(id) {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "manual" });
  if (!answer.ok) return false;
  const made = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(id);
  const here = document.getElementById(id);
  if (!made || !here) return false;
  const focused = here.contains(document.activeElement)
    ? document.activeElement.getAttribute("href")
    : null;
  here.replaceWith(made);
  if (focused) made.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  return made;
}
