"use strict";
(() => {
  const source = document.getElementById("data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const find = (id) => document.getElementById(id);
  const fields = ["model", "task", "method", "direction", "category"];
  const selects = Object.fromEntries(fields.map((name) => [name, find(`filter-${name}`)]));
  // Cells of the longer side on which attention is painted.
  const CELLS = 192;
  let shown = [];
  let position = 0;

  const element = (tag, text, css) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (css) made.className = css;
    return made;
  };
  const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
  const matches = (example, names) =>
    names.every((name) => !selects[name].value || example[name] === selects[name].value);

  // Each list offers what the lists before it leave over.
  const refill = () => {
    fields.forEach((name, index) => {
      const select = selects[name];
      const wanted = select.value;
      const possible = data.examples.filter((e) => matches(e, fields.slice(0, index)));
      const values = [...new Set(possible.map((e) => e[name]))];
      const all = name === "direction" ? "either way" : "all";
      const options = values.map((value) => new Option(value, value));
      select.replaceChildren(...(values.length > 1 ? [new Option(all, "")] : []), ...options);
      select.value = values.includes(wanted) || values.length < 2 ? wanted : "";
      if (select.selectedIndex < 0) select.selectedIndex = 0;
    });
    shown = data.examples.filter((e) => matches(e, fields));
    position = 0;
    show();
  };

  const unpack = (maps, tokens, row) => {
    const bytes = atob(maps.maps);
    const weights = new Float64Array(tokens);
    for (let i = 0; i < tokens; i += 1) {
      weights[i] = (bytes.charCodeAt(row * tokens + i) / 255) * maps.scales[row];
    }
    return weights;
  };
  const colourOf = (value, signed) => {
    const strength = Math.min(Math.abs(value), 1);
    if (signed) return value < 0 ? [33, 102, 242, 215 * strength] : [224, 50, 20, 215 * strength];
    // Opacity is the weight; the strongest turn yellow, which shows on dark and on light pictures.
    return [255, 40 + 190 * strength * strength, 20, 225 * strength];
  };

  // A token's weight is spread over its box; tokens of several scales add up.
  const density = (attention, weights, picture, width, height) => {
    const cells = new Float64Array(width * height);
    attention.boxes.forEach((box, token) => {
      if (!box || attention.image[token] !== picture) return;
      const [left, top, right, bottom] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height].map((edge) => edge / 10000);
      const x0 = Math.max(0, Math.ceil(left - 0.5)), x1 = Math.min(width, Math.ceil(right - 0.5));
      const y0 = Math.max(0, Math.ceil(top - 0.5)), y1 = Math.min(height, Math.ceil(bottom - 0.5));
      const share = weights[token] / Math.max(1e-9, (right - left) * (bottom - top));
      for (let y = y0; y < y1; y += 1) for (let x = x0; x < x1; x += 1) cells[y * width + x] += share;
    });
    return cells;
  };

  const paint = () => {
    const example = shown[position];
    const attention = example && example.attention;
    const canvases = [...document.querySelectorAll("#pictures canvas")];
    if (!attention) return;
    const kind = document.querySelector("input[name=overlay]:checked").value;
    const row = Number(find("layer").value);
    find("layer-name").textContent = row === 0 ? `mean of ${attention.layers}` : `${row - 1}`;
    const [before, after] = ["unsteered", "steered"].map((name) => attention[name].shares[row]);
    find("share").textContent = `On the image: ${percent(before)} of the attention unsteered, ${percent(after)} steered.`;
    const tokens = attention.boxes.length;
    const plain = unpack(attention.unsteered, tokens, row);
    const steered = unpack(attention.steered, tokens, row);
    const change = steered.map((weight, i) => weight - plain[i]);
    const signed = kind === "change";
    const weights = { unsteered: plain, steered, change }[kind];
    canvases.forEach((canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height));
    document.querySelector(".scale").hidden = kind === "off";
    if (!weights) return;
    const layers = canvases.map((canvas, picture) => {
      const of = (values) => density(attention, values, picture, canvas.width, canvas.height);
      return { canvas, cells: of(weights), both: signed ? [] : [of(plain), of(steered)] };
    });
    // One scale for both maps, so that switching between them compares them.
    let most = 0;
    layers.forEach(({ cells, both }) => (signed ? [cells] : both).forEach((of) => of.forEach((v) => { most = Math.max(most, Math.abs(v)); })));
    layers.forEach(({ canvas, cells }) => {
      const context = canvas.getContext("2d");
      const pixels = context.createImageData(canvas.width, canvas.height);
      cells.forEach((value, i) => pixels.data.set(colourOf(most ? value / most : 0, signed), 4 * i));
      context.putImageData(pixels, 0, 0);
    });
    let strongest = 0;
    (signed ? [change] : [plain, steered]).forEach((of) => of.forEach((v) => { strongest = Math.max(strongest, Math.abs(v)); }));
    find("scale-low").textContent = signed ? `−${percent(strongest, 2)}` : "0 %";
    find("scale-high").textContent = `${signed ? "+" : ""}${percent(strongest, 2)} per token`;
    const scale = find("scale").getContext("2d");
    const bar = scale.createImageData(160, 10);
    for (let i = 0; i < 1600; i += 1) {
      const value = (i % 160) / 159;
      bar.data.set(colourOf(signed ? 2 * value - 1 : value, signed), 4 * i);
    }
    scale.putImageData(bar, 0, 0);
  };

  const showPictures = (example) => {
    const holder = find("pictures");
    holder.replaceChildren();
    if (example.note) holder.append(element("p", example.note, "note"));
    example.pictures.forEach((number, index) => {
      const frame = element("div", undefined, "picture");
      const image = element("img");
      image.alt = `Picture ${index + 1} of the question`;
      const canvas = element("canvas");
      image.addEventListener("load", () => {
        const { naturalWidth: width, naturalHeight: height } = image;
        if (Math.max(width, height) < 200) frame.classList.add("small");
        const scale = CELLS / Math.max(width, height);
        canvas.width = Math.max(1, Math.round(width * scale));
        canvas.height = Math.max(1, Math.round(height * scale));
        paint();
      });
      image.src = data.pictures[number];
      frame.append(image, canvas);
      holder.append(frame);
    });
  };

  const answerRow = (answer) => {
    const row = element("tr");
    const text = element("td");
    const points = answer.score > 0 && answer.score < 1 ? `, ${percent(answer.score, 0)} of the points` : "";
    text.append(
      element("span", answer.right ? `✓ right${points}: ` : `✗ wrong${points}: `, answer.right ? "gain" : "loss"),
      element("bdi", answer.text || "(empty)"),
    );
    const alpha = answer.applied ? String(Number(answer.alpha.toPrecision(6))) : "–";
    const coefficient = element("td", alpha, "number");
    coefficient.title = answer.reason;
    row.append(element("td", answer.method), text, coefficient);
    return row;
  };

  const show = () => {
    const example = shown[position];
    find("previous").disabled = position <= 0;
    find("next").disabled = position >= shown.length - 1;
    find("example").hidden = !example;
    if (!example) {
      find("position").textContent = "No example of this kind";
      return;
    }
    const alike = data.examples.filter((e) => ["model", "task", "method", "direction"].every((name) => e[name] === example[name]));
    find("position").textContent = `${position + 1} of ${shown.length} · ${example.direction} (${alike.length} of ${example.of} shown)`;
    find("question").textContent = example.question;
    find("gold").replaceChildren(element("span", "Right answer: ", "quiet"), element("bdi", example.gold.join(" / ")));
    find("answers").tBodies[0].replaceChildren(...example.answers.map(answerRow));
    const confidence = example.confidence === null ? "not finite" : percent(example.confidence);
    const facts = { confidence, category: example.category, model: example.model, task: example.task, id: example.id, ...example.tags };
    find("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", value));
      return pair;
    }));
    find("overlay").hidden = !example.attention;
    if (example.attention) {
      const layer = find("layer");
      layer.max = example.attention.layers;
      layer.value = Math.min(Number(layer.value), example.attention.layers);
    }
    showPictures(example);
    paint();
  };

  const step = (by) => {
    const wanted = position + by;
    if (wanted < 0 || wanted >= shown.length) return;
    position = wanted;
    show();
  };
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  fields.forEach((name) => selects[name].addEventListener("change", refill));
  find("overlay").addEventListener("input", paint);
  document.addEventListener("keydown", (event) => {
    const inControl = event.target instanceof Element && event.target.closest("input, select, .scroll");
    if (inControl || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("filters").hidden = false;
  find("browser").hidden = false;
  refill();
})();
