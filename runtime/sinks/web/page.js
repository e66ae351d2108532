// Asks for the next update when the last one is shown, so that a slow line or machine gets fewer pictures, never old ones.
"use strict";

const PERIOD_MS = 100; // between requests
const RETRY_MS = 1000;
const ANSWER_MS = 15000; // an answer comes within a few seconds, or not at all
const DETECTIONS = 8; // that are named
const EVENTS = 20;

const cards = new Map(); // by source
const byId = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

function setStatus(element, text, kind = text) {
  if (element.textContent !== text) element.textContent = text;
  element.className = `status ${kind}`;
}

function textElement(tag, text, kind = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = kind;
  return element;
}

function makeCard(source) {
  const card = byId("source").content.cloneNode(true).firstElementChild;
  card.querySelector("h2").textContent = source;
  const button = card.querySelector(".picture");
  button.addEventListener("click", () => button.setAttribute("aria-pressed", card.classList.toggle("large")));
  card.querySelector("img").alt = `Live picture of ${source}`;
  byId("sources").append(card);
  byId("nothing").hidden = true;
  return card;
}

function showPicture(card, jpeg) {
  const image = card.querySelector("img");
  const address = URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" }));
  image.hidden = false;
  card.querySelector(".no-picture").hidden = true;
  image.src = address; // the last picture stays until this one is decoded
  return image.decode().catch(() => {}).finally(() => URL.revokeObjectURL(address));
}

function showMilliseconds(element, values) {
  if (!values) return;
  const [median, p95] = values.map((value) => (value < 10 ? value.toFixed(1) : String(Math.round(value))));
  element.replaceChildren(median, textElement("small", ` / ${p95} ms`));
}

function showRecord(card, record) {
  const { detections, counts } = record;
  if (detections.length) {
    card.foundAt = record.time;
    const best = detections.slice(0, DETECTIONS); // in an order that does not change with every frame
    best.sort((a, b) => a.label - b.label || (a.track ?? 0) - (b.track ?? 0));
    const chips = best.map((one) => {
      const track = one.track === undefined ? "" : ` #${one.track}`;
      return textElement("li", `${one.class}${track} ${one.score.toFixed(2)}`);
    });
    const more = detections.length - chips.length;
    if (more) chips.push(textElement("li", `and ${more} more`, "none"));
    card.querySelector("ul").replaceChildren(...chips);
  }
  const names = Object.entries(counts ?? {});
  const line = card.querySelector(".counts");
  line.hidden = !names.length;
  line.textContent = names
    .map(([name, by]) => `${name}: ` + Object.entries(by).map(([what, count]) => `${what} ${count}`).join(", "))
    .join(" · ");
}

function showSource(source, now) {
  const card = cards.get(source.source) ?? makeCard(source.source);
  cards.set(source.source, card);
  card.classList.toggle("old", source.status !== "ok");
  setStatus(card.querySelector(".title .status"), source.status);
  const detail = card.querySelector(".detail");
  detail.hidden = !source.detail;
  detail.textContent = source.detail;
  card.querySelector(".fps").textContent = source.fps.toFixed(1);
  if (source.frames) showMilliseconds(card.querySelector(".age"), source.age_ms);
  showMilliseconds(card.querySelector(".latency"), source.latency_ms);
  card.querySelector(".dropped").textContent = source.dropped.toLocaleString();
  card.querySelector(".decoder").textContent = source.decoder;
  if (source.record) showRecord(card, source.record);
  if (card.foundAt) {
    const ago = Math.round(now - card.foundAt);
    card.querySelector(".when").textContent = ago < 2 ? "" : `${ago} s ago`;
  }
  return card;
}

function showEvents(events) {
  byId("events").hidden = !events.length;
  byId("no-events").hidden = events.length > 0;
  const verbs = { enter: "entered", leave: "left", in: "in over", out: "out over" };
  const rows = events.slice(-EVENTS).reverse().map((event) => {
    const row = document.createElement("tr");
    const what = `${event.class} #${event.track} ${verbs[event.kind] ?? event.kind} ${event.place}`;
    row.append(textElement("td", clock(event.time)), textElement("td", event.source), textElement("td", what));
    return row;
  });
  byId("events").tBodies[0].replaceChildren(...rows);
}

// A line of JSON, then the JPEGs of the sources that have one, end to end.
async function show(answer) {
  const bytes = new Uint8Array(answer);
  const end = bytes.indexOf(10);
  const update = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  let begin = end + 1;
  const decoded = [];
  for (const source of update.sources) {
    const card = showSource(source, update.time);
    if (source.jpeg) decoded.push(showPicture(card, bytes.subarray(begin, (begin += source.jpeg))));
  }
  const well = update.sources.filter((source) => source.status === "ok").length;
  const all = update.sources.length;
  setStatus(byId("overall"), all ? `${well} of ${all} ok` : "waiting", all && well === all ? "ok" : all ? "stalled" : "");
  showEvents(update.events);
  await Promise.all(decoded);
  return update.number;
}

async function follow() {
  for (let after = 0; ; ) {
    const due = sleep(PERIOD_MS);
    if (document.hidden) { // nobody looks: the stream need not draw and encode
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      continue;
    }
    try {
      const answer = await fetch(`live?after=${after}`, { signal: AbortSignal.timeout(ANSWER_MS) });
      if (answer.status === 401) {
        setStatus(byId("overall"), "open it with its token again", "failed");
        return;
      }
      if (!answer.ok) throw new Error(answer.statusText);
      after = await show(await answer.arrayBuffer());
    } catch {
      setStatus(byId("overall"), "no connection", "failed");
      for (const card of cards.values()) card.classList.add("old");
      await sleep(RETRY_MS);
    }
    await due;
  }
}

follow();
