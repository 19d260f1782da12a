// Shows frames at a steady beat, whatever the beat in which they arrive.

const HEADER_BYTES = 20;

// The binary message of the server (play/protocol.py: HEADER) as an object.
export function unpack(buffer) {
  const view = new DataView(buffer);
  const [frames, height, width, dropped] = [8, 10, 12, 14].map((at) => view.getUint16(at, true));
  return {
    number: view.getUint32(0, true), applied: view.getUint32(4, true), frames, height, width, dropped,
    seconds: view.getFloat32(16, true), pixels: new Uint8Array(buffer, HEADER_BYTES),
  };
}

export class Screen {
  // onFrame(frame, now, first) is called when a frame is drawn; first: it is the first one of its latent frame.
  constructor(canvas, onFrame) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onFrame = onFrame;
    this.fps = 8;
    this.fast = false;
    this.clear();
    const tick = (now) => { this.tick(now); requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
  }

  clear() {
    this.queue = [];
    this.due = 0; // when the next frame is drawn
    this.missed = 0; // beats that had no frame in time
    this.drawn = 0;
    this.slacks = []; // how long before their time the last latent frames arrived, ms
    this.arrivals = [];
  }

  push(step) {
    const now = performance.now();
    this.slacks = [...this.slacks.slice(-15), this.due + 1000 / this.fps * this.queue.length - now];
    this.arrivals = [...this.arrivals.slice(-6), now];
    const size = 3 * step.height * step.width;
    for (let i = 0; i < step.frames; i++) {
      this.queue.push({ step, first: i === 0, rgb: step.pixels.subarray(i * size, (i + 1) * size) });
    }
    if (!this.fast && this.slacks.length === 16 && Math.min(...this.slacks) > 60) {
      this.due -= 10; // a former delay need not stay
      this.slacks = [];
    }
  }

  // Milliseconds that a frame is shown.
  get interval() {
    if (!this.fast || this.arrivals.length < 3) return 1000 / this.fps;
    const gap = (this.arrivals.at(-1) - this.arrivals[0]) / (this.arrivals.length - 1);
    return Math.max(1, 0.9 * gap / this.queue.at(-1).step.frames);
  }

  tick(now) {
    if (!this.queue.length || now < this.due - 2) return;
    const interval = this.interval, late = now - this.due;
    if (late > Math.max(25, interval / 2)) {
      if (this.drawn > 1 && !this.fast) this.missed += 1;
      this.due = now;
    }
    this.due += interval;
    const frame = this.queue.shift();
    this.drawn += 1;
    this.draw(frame);
    this.onFrame(frame.step, now, frame.first);
  }

  draw({ step, rgb }) {
    const { canvas, context } = this;
    if (canvas.width !== step.width || canvas.height !== step.height) {
      [canvas.width, canvas.height] = [step.width, step.height];
      this.image = null;
    }
    this.image ??= context.createImageData(step.width, step.height);
    const rgba = this.image.data;
    for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
      rgba[to] = rgb[from];
      rgba[to + 1] = rgb[from + 1];
      rgba[to + 2] = rgb[from + 2];
      rgba[to + 3] = 255;
    }
    context.putImageData(this.image, 0, 0);
  }
}
