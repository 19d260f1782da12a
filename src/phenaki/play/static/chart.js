// The graph of the last minute: frames per second as a line, times from key to pixel as dots.

const SECONDS = 60;

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.frames = []; // ms, when each was drawn
    this.latencies = []; // [when, ms]
  }

  addFrame(now) { this.frames.push(now); }

  addLatency(now, latency) { this.latencies.push([now, latency]); }

  // Frames per second over the last two seconds; 0 if there are none.
  rate(now) {
    const recent = this.frames.filter((t) => t > now - 2000);
    if (recent.length < 2) return 0;
    const seconds = Math.min(2, (now - this.frames[0]) / 1000);
    return seconds < 1 ? (1000 * (recent.length - 1)) / (recent.at(-1) - recent[0]) : recent.length / seconds;
  }

  get latency() { return this.latencies.at(-1)?.[1]; }

  draw(now) {
    this.frames = this.frames.filter((t) => t > now - 1000 * (SECONDS + 2));
    this.latencies = this.latencies.filter(([t]) => t > now - 1000 * SECONDS);
    const { canvas } = this, { width, height } = canvas, context = canvas.getContext("2d");
    const style = getComputedStyle(canvas), color = (name) => style.getPropertyValue(name);
    const counts = Array(SECONDS).fill(0);
    for (const t of this.frames) {
      const second = SECONDS - 1 - Math.floor((now - t) / 1000);
      if (second >= 0 && second < SECONDS) counts[second] += 1;
    }
    const rates = counts.map((_, i) => (counts[Math.max(0, i - 1)] + counts[i] + counts[Math.min(SECONDS - 1, i + 1)]) / 3);
    rates[SECONDS - 1] = rates[SECONDS - 2]; // the current second is not over
    const top = Math.max(10, ...rates) * 1.15, slowest = Math.max(500, ...this.latencies.map((pair) => pair[1])) * 1.15;
    const x = (second) => (second / (SECONDS - 1)) * width, y = (value, most) => height - 2 - (value / most) * (height - 6);

    context.clearRect(0, 0, width, height);
    context.strokeStyle = color("--line");
    context.fillStyle = color("--soft");
    context.font = "20px system-ui, sans-serif";
    for (let mark = 10; mark < top; mark += top > 45 ? 20 : 10) {
      context.beginPath();
      context.moveTo(0, y(mark, top));
      context.lineTo(width, y(mark, top));
      context.stroke();
      context.fillText(mark, 2, y(mark, top) - 4);
    }
    context.strokeStyle = color("--accent");
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.beginPath();
    rates.forEach((rate, i) => (i ? context.lineTo(x(i), y(rate, top)) : context.moveTo(x(i), y(rate, top))));
    context.stroke();
    context.fillStyle = color("--lit");
    for (const [t, latency] of this.latencies) {
      context.beginPath();
      context.arc(width - ((now - t) / 1000 / SECONDS) * width, y(latency, slowest), 6, 0, 2 * Math.PI);
      context.fill();
    }
    context.lineWidth = 1;
  }
}
