// The picture: overlay, window and level, size and place. The figures are the server's; nothing
// here measures.
const STEP = 1.25;
const MOVE = 40; // pixels of an arrow key
const MOST = 12;
const START = { scale: 1, x: 0, y: 0, window: 100, level: 50, inverted: false };

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

export class Viewer {
  constructor(root) {
    const find = (id) => root.querySelector(`#${id}`);
    this.stage = find("stage");
    this.picture = find("picture");
    this.radiograph = root.querySelector(".radiograph");
    this.layer = find("layer");
    this.controls = Object.fromEntries(
      ["overlay", "strength", "window", "level", "invert", "zoom"].map((id) => [id, find(id)]),
    );
    this.pointers = new Map();
    this.state = { ...START };
    this.listen(find);
    this.recall();
    this.draw();
  }

  listen(find) {
    const { overlay, strength, window, level, invert } = this.controls;
    overlay?.addEventListener("change", () => this.drawLayer());
    strength?.addEventListener("input", () => this.drawLayer());
    window.addEventListener("input", () => this.set({ window: Number(window.value) }));
    level.addEventListener("input", () => this.set({ level: Number(level.value) }));
    invert.addEventListener("click", () => this.invert());
    find("larger").addEventListener("click", () => this.size(STEP));
    find("smaller").addEventListener("click", () => this.size(1 / STEP));
    find("reset").addEventListener("click", () => this.reset());
    this.stage.addEventListener("dblclick", () => this.reset());
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.down(event));
    this.stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.stage.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
  }

  // What a reader chose of the overlay stays for the next study of this window.
  recall() {
    const { overlay, strength } = this.controls;
    if (!overlay) return;
    overlay.checked = sessionStorage.getItem("overlay") !== "off";
    if (!strength.disabled) strength.value = sessionStorage.getItem("strength") ?? "100";
    this.drawLayer();
  }

  drawLayer() {
    const { overlay, strength } = this.controls;
    if (!this.layer) return;
    this.layer.classList.toggle("off", !overlay.checked);
    this.layer.style.opacity = String(Number(strength.value) / 100);
    sessionStorage.setItem("overlay", overlay.checked ? "on" : "off");
    sessionStorage.setItem("strength", strength.value);
  }

  toggleOverlay() {
    if (!this.controls.overlay) return;
    this.controls.overlay.checked = !this.controls.overlay.checked;
    this.drawLayer();
  }

  strengthen(by) {
    const { strength } = this.controls;
    if (!strength || strength.disabled) return;
    strength.value = String(clamp(Number(strength.value) + by, 0, 100));
    this.drawLayer();
  }

  set(changes) {
    Object.assign(this.state, changes);
    this.draw();
  }

  reset() {
    this.set(START);
  }

  invert() {
    this.set({ inverted: !this.state.inverted });
  }

  pan(x, y) {
    this.set({ x: this.state.x + x, y: this.state.y + y });
  }

  // Larger or smaller around a point of the stage, measured from its middle.
  size(factor, at = { x: 0, y: 0 }) {
    const { scale, x, y } = this.state;
    const next = clamp(scale * factor, 0.5, MOST);
    const by = next / scale;
    this.set({ scale: next, x: at.x - (at.x - x) * by, y: at.y - (at.y - y) * by });
  }

  wheel(event) {
    event.preventDefault();
    this.size(event.deltaY < 0 ? 1.12 : 1 / 1.12, this.fromMiddle(event));
  }

  fromMiddle(event) {
    const box = this.stage.getBoundingClientRect();
    return {
      x: event.clientX - box.left - box.width / 2,
      y: event.clientY - box.top - box.height / 2,
    };
  }

  down(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const [dx, dy] = [now.x - before.x, now.y - before.y];
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, now);
    else if (event.shiftKey) this.window(dx, dy);
    else this.pan(dx, dy);
    this.pointers.set(event.pointerId, now);
  }

  pinch(id, before, now) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, place]) => place);
    const apart = (place) => Math.hypot(place.x - other.x, place.y - other.y);
    const middle = { clientX: (now.x + other.x) / 2, clientY: (now.y + other.y) / 2 };
    this.size(apart(now) / Math.max(apart(before), 1), this.fromMiddle(middle));
  }

  window(dx, dy) {
    this.set({
      window: clamp(this.state.window + dx / 4, 10, 200),
      level: clamp(this.state.level - dy / 4, 0, 100),
    });
  }

  draw() {
    const { scale, x, y, window, level, inverted } = this.state;
    this.picture.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.radiograph.style.filter = greyFilter(window / 100, level / 100, inverted);
    this.controls.window.value = String(window);
    this.controls.level.value = String(level);
    this.controls.invert.setAttribute("aria-pressed", String(inverted));
    this.controls.zoom.textContent = `${Math.round(scale * 100)} %`;
  }
}

// A window of this width around this level, of a scale from 0 to 1, as filters of CSS:
// brightness(b) contrast(c) gives c * (b * grey - 0.5) + 0.5.
export function greyFilter(width, level, inverted) {
  const [low, high] = [level - width / 2, level + width / 2];
  const both = Math.max(low + high, 0.02);
  const filter = `brightness(${1 / both}) contrast(${both / (high - low)})`;
  return inverted ? `${filter} invert(1)` : filter;
}

export { MOVE, STEP };
