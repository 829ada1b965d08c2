// Times come as UTC; the reader sees those of the clock on the wall, and UTC in the title.
const format = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

export function showLocalTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime()) || element.dataset.local) continue;
    element.title = `${element.textContent.trim()} UTC`;
    element.textContent = format.format(at);
    element.dataset.local = "yes";
  }
}
