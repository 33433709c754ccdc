// The page of the service. It asks /model, /samples and /predict, and nothing elsewhere. All texts of others (class
// names, file names, errors) become text nodes, never markup.

const at = (id) => document.getElementById(id);
const TOP = 10;
const SMALL = 96; // pixels a side: an image up to it is shown with its pixels
const store = { get: () => sessionStorage.getItem("flatnext-token"), set: (token) => sessionStorage.setItem("flatnext-token", token) };

let model = null;
let asking = null; // aborts the request under way
let shown = null; // the object URL of the picture

async function ask(path, options = {}) {
  const token = store.get();
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  if (response.status === 401) at("token-form").hidden = false;
  if (!response.ok) throw new Error(await reason(response));
  return response;
}

async function reason(response) {
  try {
    const { detail } = await response.json();
    return `${detail[0].toUpperCase()}${detail.slice(1)}.`;
  } catch {
    return `The service answered with status ${response.status}.`;
  }
}

const percent = (p) => (p > 0 && p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const round = (p) => `${+(100 * p).toFixed(2)} %`;
const list = (names) => new Intl.ListFormat("en", { type: "conjunction" }).format(names);

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function fail(message) {
  at("error").textContent = message;
  at("error").hidden = false;
}

async function start() {
  at("error").hidden = true;
  try {
    model = await (await ask("model")).json();
  } catch (error) {
    at("facts").textContent = "";
    if (at("token-form").hidden || store.get()) fail(error.message);
    if (!at("token-form").hidden) at("token").focus();
    return;
  }
  at("token-form").hidden = true;
  at("metrics").hidden = store.get() !== null; // a link cannot carry the token
  document.title = `${model.name} · FlatNeXt`;
  at("name").textContent = model.name;
  const colour = model.channels === 1 ? "grey" : "colour";
  at("facts").textContent = `Tells ${model.classes.length} classes apart in ${colour} images of ${model.image_size} × ${model.image_size} pixels`;
  at("stage").classList.add(model.resize);
  at("card").textContent = model.card;
  at("card-part").hidden = !model.card;
  await samples();
}

async function samples() {
  at("samples").replaceChildren();
  for (let index = 0; index < model.samples; index++) {
    const blob = await (await ask(`samples/${index}`)).blob();
    const button = element("button");
    const image = element("img");
    image.src = URL.createObjectURL(blob);
    image.alt = `Sample ${index + 1}`;
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => classify(blob, `sample ${index + 1}`));
    const item = element("li");
    item.append(button);
    at("samples").append(item);
  }
  at("samples-part").hidden = model.samples === 0;
}

// The first of several files, with a word about the others.
function take(files) {
  const images = [...files];
  if (images.length === 0) return fail("That was no image file. Save it first, and choose the file.");
  classify(images[0], images[0].name);
  if (images.length > 1) fail(`Of ${images.length} files the first was taken: the page answers about one at a time.`);
}

async function classify(file, name) {
  if (!model) return;
  at("error").hidden = true;
  asking?.abort();
  const controller = new AbortController();
  asking = controller;
  show(file, name);
  clear();
  if (file.size > model.limits.bytes) {
    at("label").textContent = "No answer";
    return fail(`The file has ${(file.size / 1e6).toFixed(1)} MB; this service takes ${(model.limits.bytes / 1e6).toFixed(1)} MB.`);
  }
  at("result").setAttribute("aria-busy", "true");
  try {
    const form = new FormData();
    form.append("image", file, name || "image");
    const options = { method: "POST", body: form, signal: controller.signal };
    const { images, coverage } = await (await ask(`predict?map=true&top=${TOP}`, options)).json();
    if (asking === controller) answer(images[0], coverage);
  } catch (error) {
    if (error.name === "AbortError" || asking !== controller) return;
    at("label").textContent = "No answer";
    fail(error.message);
  } finally {
    if (asking === controller) at("result").setAttribute("aria-busy", "false");
  }
}

function show(file, name) {
  const picture = at("picture");
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  picture.onload = () => picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= SMALL);
  picture.onerror = () => {
    picture.hidden = true;
    at("hint").textContent = "This browser cannot show the file";
    at("hint").hidden = false;
  };
  picture.src = shown;
  picture.alt = `The image: ${name || "without a name"}`;
  picture.hidden = false;
  at("hint").hidden = true;
  at("stage").classList.add("filled");
}

function clear() {
  for (const id of ["map", "set-part", "bars-part"]) at(id).hidden = true;
  at("label").textContent = "…";
  at("sentence").textContent = "";
  at("status").textContent = "";
  at("show-map").disabled = true;
}

function answer({ label, probability, top, set, none, map }, coverage) {
  at("label").textContent = none ? "None of these" : label;
  const likeliest = `${label} with ${percent(probability)}`;
  at("sentence").textContent = none ? `The likeliest class is ${likeliest}, and that is not enough.` : `Probability ${percent(probability)}`;
  const guaranteed = set === null ? "" : sets(set, coverage);
  bars(top, new Set(set ?? [label]));
  draw(map);
  at("status").textContent = none ? `None of these. The likeliest class is ${likeliest}. ${guaranteed}` : `${likeliest}. ${guaranteed}`;
}

// Show the set, and return it in words.
function sets(set, coverage) {
  at("set-title").textContent = `Set with a guarantee of ${round(coverage)}`;
  at("set").replaceChildren(...(set.length ? set.slice(0, 40).map((name) => element("li", name)) : [element("li", "none of these")]));
  const more = set.length > 40 ? `And ${set.length - 40} more. ` : "";
  const images = model.calibration_images.toLocaleString("en");
  at("set-note").textContent = `${more}Of images like the ${images} it was calibrated on, ${round(coverage)} have their class in the set.`;
  at("set-part").hidden = false;
  return `Set with a guarantee of ${round(coverage)}: ${set.length ? list(set.slice(0, TOP)) : "empty"}.`;
}

function bars(top, members) {
  const items = top.map(({ label, probability }) => {
    const item = element("li", undefined, members.has(label) ? "member" : "");
    const track = element("div", undefined, "track");
    const bar = element("div");
    bar.style.width = `${100 * probability}%`;
    track.append(bar);
    const name = element("span", label, "name");
    name.title = label;
    item.append(name, track, element("span", percent(probability), "number"));
    return item;
  });
  at("bars").replaceChildren(...items);
  const others = model.classes.length - top.length;
  const rest = 1 - top.reduce((sum, { probability }) => sum + probability, 0);
  at("rest").textContent = others > 0 ? `The other ${others.toLocaleString("en")} classes have ${percent(Math.max(0, rest))} together.` : "";
  at("bars-part").hidden = false;
}

// The map covers the square that the model saw, and darkens it where nothing spoke for the class.
function draw(map) {
  const canvas = at("map");
  [canvas.height, canvas.width] = [map.length, map[0].length];
  const image = new ImageData(canvas.width, canvas.height);
  map.flat().forEach((value, index) => {
    const lit = Math.min(1, Math.max(0, (value - 0.15) / 0.45));
    image.data.set([8, 10, 24, 190 * (1 - lit)], 4 * index);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  at("show-map").disabled = false;
  canvas.hidden = !at("show-map").checked;
}

function listen() {
  at("photograph").hidden = navigator.maxTouchPoints === 0; // a desktop would only choose a file
  for (const [button, input] of [["choose", "file"], ["photograph", "camera"]]) {
    at(button).addEventListener("click", () => at(input).click());
    at(input).addEventListener("change", () => {
      if (at(input).files.length) take(at(input).files);
      at(input).value = ""; // the same file can be chosen again
    });
  }
  at("show-map").addEventListener("change", () => (at("map").hidden = !at("show-map").checked));
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    store.set(at("token").value.trim());
    at("token").value = "";
    start();
  });
  document.addEventListener("paste", (event) => {
    if (event.target === at("token")) return;
    take(event.clipboardData.files);
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    window.addEventListener(kind, (event) => {
      event.preventDefault(); // or the browser would leave the page for the file
      at("stage").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
}

listen();
start();
