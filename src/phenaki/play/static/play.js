// The page: a connection to the server, and what the controls say to it. The protocol is on api.html.

import { Chart } from "./chart.js";
import { Keys } from "./keys.js";
import { Screen, unpack } from "./screen.js";

const $ = (id) => document.getElementById(id);
const OPTIONS = { guidance: "guidance_scale", steps: "steps", temperature: "temperature" };
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

const address = new URLSearchParams(location.hash.slice(1)); // what to play, so that a reload plays it again
const history = JSON.parse(sessionStorage.getItem("prompts") ?? "[]");
const chart = new Chart($("chart"));
const screen = new Screen($("screen"), onFrame);
const keys = new Keys($("keys"), $("stage"), act);

let model = null, socket = null, retries = 0, ended = false;
let first = address.get("prompt") ?? "", current = "", picture = "", session = "", lost = "";
let paused = false, playing = false, nextId = 1, recalled = history.length;
let sent = new Map(); // id of a message to when it was sent

// ---- the connection

function connect() {
  if (!("WebSocket" in window)) {
    return banner("This browser has no WebSocket, through which the video comes: use a newer one.");
  }
  const query = lost ? `?session=${lost}` : ""; // the server keeps it for a while
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/play${query}`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? onMessage(JSON.parse(data)) : onStep(unpack(data)));
  socket.onclose = () => {
    lost = session || lost;
    setSession("");
    if (ended) return;
    const wait = RETRY_MS[Math.min(retries++, RETRY_MS.length - 1)];
    status("no connection");
    banner(`The connection to the server is lost. Trying again in ${wait / 1000} s.`);
    setTimeout(connect, wait);
  };
}

function send(message) {
  if (socket?.readyState === 1) socket.send(JSON.stringify(message));
}

// Send what changes the video, and measure how long it takes until it is seen.
function act(message) {
  const id = nextId++;
  sent.set(id, performance.now());
  send({ ...message, id });
}

function onMessage(message) {
  if (message.type === "model") setModel(message);
  else if (message.type === "waiting") waitInLine(message);
  else if (message.type === "admitted") setSession(message.session);
  else if (message.type === "started") { current = message.prompt; showCaption(); }
  else if (message.type === "error") { sent.delete(message.id); fail(message.message); }
  else if (message.type === "note") fail(message.message, true);
  else if (message.type === "end") { ended = true; finish(message.message); }
}

function setModel(description) {
  const again = model !== null;
  model = description;
  retries = 0;
  banner("");
  $("model").textContent = model.name;
  document.title = `${model.name} – phenaki play`;
  screen.fps = model.fps;
  if (!again) {
    keys.build(model.actions);
    for (const [id, option] of Object.entries(OPTIONS)) setOption(id, Number(address.get(id) ?? model.options[option]));
    $("seed").value = address.get("seed") ?? 0;
    addExamples();
    explain();
  }
  lost = "";
  if (model.rejoined) {
    setPaused(paused);
    return;
  }
  first ||= model.examples.find((prompt) => !isNext(prompt)) ?? "";
  if (first) start(first);
  else { status("ready"); overlay("Type a prompt to begin"); $("prompt").focus(); }
}

function setSession(name) {
  session = name;
  $("save").setAttribute("aria-disabled", String(!name));
  if (name) { $("save").href = `/api/sessions/${name}/video.mp4`; overlay(""); } else $("save").removeAttribute("href");
}

function waitInLine({ position, waiting }) {
  overlay(position === 1 ? "All places are taken. You are next." : `All places are taken. You are number ${position} of ${waiting} in line.`);
  status(`number ${position} in line`);
}

function finish(reason) {
  playing = false;
  status("ended");
  banner(`${reason[0].toUpperCase()}${reason.slice(1)}.`);
  const again = document.createElement("button");
  again.textContent = "Play again";
  again.onclick = () => { ended = false; lost = ""; connect(); };
  $("banner").append(" ", again);
}

// ---- the video

function start(prompt) {
  if (!model) return;
  first = prompt;
  fail("");
  screen.clear();
  sent.clear();
  setPaused(false, false);
  const options = {};
  for (const [id, option] of Object.entries(OPTIONS)) {
    if (Number($(id).value) !== model.options[option]) options[option] = Number($(id).value);
  }
  remember();
  status("starting");
  playing = true;
  act({ type: "start", prompt, seed: seed(), options, picture, fast: $("fast").checked });
}

function onStep(step) { screen.push(step); }

function onFrame(step, now, isFirst) {
  chart.addFrame(now);
  const { dataset } = $("screen");
  dataset.frames = screen.drawn;
  dataset.missed = screen.missed;
  if (!isFirst) return;
  dataset.latentFrame = step.number;
  send({ type: "ack", latent_frame: step.number });
  for (const [id, when] of sent) {
    if (id > step.applied) break;
    if (step.number > 1) chart.addLatency(now, now - when);
    sent.delete(id);
  }
}

function showStatus() {
  const now = performance.now(), rate = chart.rate(now);
  if (playing && session) {
    status(paused ? "paused" : rate ? `${rate.toFixed(1)} frames a second` : "waiting for a frame");
  }
  $("rate").textContent = rate ? rate.toFixed(1) : "–";
  $("latency").textContent = chart.latency === undefined ? "–" : `${Math.round(chart.latency)} ms`;
  $("chart").setAttribute("aria-label", `${$("rate").textContent} frames per second; key to pixel ${$("latency").textContent}`);
  chart.draw(now);
}

// ---- prompts

const isNext = (prompt) => /^(now|then)\b/i.test(prompt);

function submit(prompt, fromStart) {
  fail("");
  prompt = prompt.trim();
  if (!prompt) return;
  if (history.at(-1) !== prompt) history.push(prompt);
  sessionStorage.setItem("prompts", JSON.stringify(history.slice(-100)));
  recalled = history.length;
  if (fromStart || !playing) start(prompt);
  else {
    act({ type: "say", prompt });
    current = prompt;
    showCaption();
  }
}

function recall(step) {
  recalled = Math.max(0, Math.min(history.length, recalled + step));
  $("prompt").value = history[recalled] ?? "";
}

function addExamples() {
  $("examples").replaceChildren(...model.examples.map((prompt) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = prompt;
    button.classList.toggle("next", isNext(prompt));
    button.title = isNext(prompt) ? "Go on like this" : "Begin a video like this";
    button.onclick = () => submit(prompt, !isNext(prompt));
    return button;
  }));
}

// ---- controls

const seed = () => Math.max(0, Math.min(Number.MAX_SAFE_INTEGER, Math.floor(Number($("seed").value) || 0)));

function setOption(id, value) {
  $(id).value = value;
  $(`${id}_value`).textContent = $(id).value;
}

function setPaused(value, tell = true) {
  paused = value;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Resume" : "Pause";
  if (tell) send({ type: paused ? "pause" : "resume" });
}

function remember() {
  address.set("prompt", first);
  address.set("seed", seed());
  for (const [id, option] of Object.entries(OPTIONS)) {
    if (model && Number($(id).value) !== model.options[option]) address.set(id, $(id).value);
    else address.delete(id);
  }
  window.history.replaceState(null, "", `#${address}`);
}

async function setPicture(file) {
  fail("");
  if (file.size > 16e6) return fail(`the picture has ${Math.round(file.size / 1e6)} MB: use one of at most 16`);
  try {
    const response = await fetch("/api/picture", { method: "POST", body: file });
    const text = await response.text();
    if (!response.ok) throw new Error(text.startsWith("{") ? JSON.parse(text).detail : text);
    picture = text;
    $("clear").hidden = false;
    if (first) start(first);
  } catch (error) {
    fail(error instanceof TypeError ? "the picture could not be sent: is it too large, or the server gone?" : error.message);
    $("picture").value = "";
  }
}

function explain() {
  const canvasKeys = model.actions.length ? "Keys steer the video. " : "";
  $("hint").className = "keyboard";
  $("hint").textContent = `${canvasKeys}/ writes a prompt, Shift+Enter begins a new video with it, Esc returns to the video.`;
  if (!model.causal) {
    banner(`This model writes whole scenes of ${model.frames_per_step} frames: a new prompt takes effect in the next scene, and there are no keys.`);
  }
}

const status = (text) => { if ($("status").textContent !== text) $("status").textContent = text; };
function fail(text, isNote = false) { $("error").textContent = text; $("error").classList.toggle("note", isNote); }
function banner(text) { $("banner").textContent = text; $("banner").hidden = !text; }
function overlay(text) { $("overlay").textContent = text; $("overlay").hidden = !text; }
function showCaption() { $("caption").textContent = current; }

$("form").onsubmit = (event) => {
  event.preventDefault();
  submit($("prompt").value, false);
  $("prompt").value = "";
  if (model?.actions.length) $("stage").focus();
};
$("prompt").onkeydown = (event) => {
  if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    event.preventDefault();
    recall(event.key === "ArrowUp" ? -1 : 1);
  } else if (event.key === "Enter" && event.shiftKey) {
    event.preventDefault();
    submit($("prompt").value, true);
    $("prompt").value = "";
  } else if (event.key === "Escape") $("stage").focus();
};
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.matches("#prompt, #seed")) { event.preventDefault(); $("prompt").focus(); }
});
$("pause").onclick = () => setPaused(!paused);
$("start").onclick = () => first && start(first);
$("dice").onclick = () => { $("seed").value = Math.floor(Math.random() * 1e6); if (first) start(first); };
$("seed").onchange = () => first && start(first);
$("fast").onchange = () => { screen.fast = $("fast").checked; send({ type: "speed", fast: $("fast").checked }); };
for (const [id, option] of Object.entries(OPTIONS)) {
  $(id).oninput = () => { $(`${id}_value`).textContent = $(id).value; };
  $(id).onchange = () => { act({ type: "adjust", option, value: Number($(id).value) }); remember(); };
}
$("picture").onchange = () => $("picture").files[0] && setPicture($("picture").files[0]);
$("clear").onclick = () => { picture = ""; $("picture").value = ""; $("clear").hidden = true; if (first) start(first); };
for (const type of ["dragover", "dragleave", "drop"]) {
  $("stage").addEventListener(type, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("drop", type === "dragover");
    if (type === "drop" && event.dataTransfer.files[0]) setPicture(event.dataTransfer.files[0]);
  });
}
document.addEventListener("visibilitychange", () => {
  if (!paused) send({ type: document.hidden ? "pause" : "resume" });
});
setInterval(showStatus, 500);
connect();
