// Actions of the model as keys of the keyboard and as buttons on the page.

const LABELS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "Space", ShiftLeft: "Shift" };
const CROSS = { ArrowUp: "1 / 2", ArrowLeft: "2 / 1", ArrowDown: "2 / 2", ArrowRight: "2 / 3" }; // row / column
const STEP = 10; // of a relative axis, per message while a key is held
const EVERY = 125; // ms between those messages

const label = (code) => LABELS[code] ?? code.replace(/^(Key|Digit)/, "");
const writes = (element) => element.matches("input, textarea, select");

export class Keys {
  // send(message) sends to the server. stage: where dragging moves relative axes.
  constructor(element, stage, send) {
    this.element = element;
    this.send = send;
    this.byCode = new Map(); // code to { press, release }
    this.down = new Set();
    this.axes = [];
    document.addEventListener("keydown", (event) => this.onKey(event, true));
    document.addEventListener("keyup", (event) => this.onKey(event, false));
    window.addEventListener("blur", () => this.releaseAll());
    stage.addEventListener("pointermove", (event) => event.buttons && this.drag(event));
  }

  build(actions) {
    this.releaseAll();
    this.byCode.clear();
    this.element.replaceChildren();
    this.axes = actions.filter((action) => action.kind === "relative").map((action) => action.name);
    this.element.classList.toggle("plain", !actions.some((action) => action.keys.some((code) => code in CROSS)));
    for (const action of actions) {
      if (action.kind === "button") this.addButton(action);
      else this.addAxis(action);
    }
  }

  addButton({ name, keys }) {
    const code = keys[0];
    const button = this.makeButton(code ? label(code) : "", name,
      () => this.send({ type: "press", action: name }), () => this.send({ type: "release", action: name }), code);
    if (code in CROSS) button.style.gridArea = CROSS[code];
    this.element.append(button);
  }

  addAxis({ name, kind, keys }) {
    const row = document.createElement("div");
    row.className = "axis";
    const range = document.createElement("input");
    Object.assign(range, { type: "range", min: -1, max: 1, step: 0.05, value: 0 });
    range.setAttribute("aria-label", name);
    const move = (value) => this.send({ type: "move", action: name, value });
    range.addEventListener("input", () => move(Number(range.value)));
    const nudge = (sign) => {
      if (kind === "relative") return move(sign * STEP);
      range.value = Number(range.value) + sign * 0.1;
      return move(Number(range.value));
    };
    const buttons = [-1, 1].map((sign, i) => {
      let timer = 0;
      const press = () => { nudge(sign); timer = setInterval(() => nudge(sign), EVERY); };
      return this.makeButton(keys[i] ? label(keys[i]) : "", sign < 0 ? "less" : "more", press, () => clearInterval(timer), keys[i]);
    });
    const middle = document.createElement("span");
    middle.textContent = name;
    row.append(buttons[0], kind === "level" ? range : middle, buttons[1]);
    this.element.append(row);
  }

  makeButton(sign, name, onPress, onRelease, code) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "key";
    const big = document.createElement("b"), small = document.createElement("small");
    big.textContent = sign;
    small.textContent = name;
    button.append(big, small);
    button.setAttribute("aria-label", sign ? `${name}, key ${sign}` : name);
    let held = false;
    const press = () => { if (!held) { held = true; button.classList.add("lit"); onPress(); } };
    const release = () => { if (held) { held = false; button.classList.remove("lit"); onRelease(); } };
    button.addEventListener("pointerdown", (event) => { button.setPointerCapture(event.pointerId); press(); });
    for (const type of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(type, release);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    for (const [type, act] of [["keydown", press], ["keyup", release]]) {
      button.addEventListener(type, (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        act();
      });
    }
    if (code) this.byCode.set(code, { press, release });
    return button;
  }

  onKey(event, pressed) {
    const key = this.byCode.get(event.code);
    if (!key || (pressed && (writes(event.target) || event.ctrlKey || event.metaKey || event.altKey))) return;
    if (pressed && event.code === "Space" && event.target.matches("button, a")) return;
    if (pressed) {
      event.preventDefault();
      if (!event.repeat) { this.down.add(event.code); key.press(); }
    } else if (this.down.delete(event.code)) {
      key.release();
    }
  }

  releaseAll() {
    for (const code of this.down) this.byCode.get(code)?.release();
    this.down.clear();
  }

  drag(event) {
    for (const name of this.axes) {
      const value = /y$|vertical|pitch/i.test(name) ? event.movementY : event.movementX;
      if (value) this.send({ type: "move", action: name, value });
    }
  }
}
