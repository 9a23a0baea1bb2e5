// What gr.HTML runs for the prediction: Gradio gives `element` (its root), `props` and `watch`.
const figure = element.querySelector('.stage'), image = figure.querySelector('img');
const paint = figure.querySelector('.paint'), notes = figure.querySelector('.notes');
const legend = element.querySelector('.legend'), found = element.querySelector('.found');
const shown = { opacity: 60, threshold: 0, palette: 'model', lit: null, pinned: null };
let view = null, labels = null, masks = null, point = [null, null];

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Response(stream).arrayBuffer();
}

async function load() {
  const value = props.value;
  if (!value || value.kind === 'none') {
    view = null;
    figure.hidden = true;
    legend.replaceChildren();
    found.textContent = '';
    return;
  }
  if (value.kind === 'segmentation') {
    const buffer = await unpack(value.labels);
    labels = value.bytes === 1 ? new Uint8Array(buffer) : new Uint16Array(buffer);
  } else {
    masks = unpackMasks(new Uint8Array(await unpack(value.masks)), value.instances);
  }
  view = value;
  shown.lit = shown.pinned = null;
  image.src = view.image;
  for (const canvas of [paint, notes]) {
    canvas.width = view.width;
    canvas.height = view.height;
  }
  figure.hidden = false;
  const slider = document.querySelector('#threshold input[type=number]');
  if (slider) shown.threshold = Number(slider.value);
  draw();
}

function unpackMasks(bytes, instances) {
  let start = 0;
  return instances.map(({ crop }) => {
    if (!crop) return null;
    const mine = bytes.subarray(start, (start += Math.ceil((crop[2] * crop[3]) / 8)));
    return (i) => (mine[i >> 3] >> (7 - (i & 7))) & 1;
  });
}

const entry = (label) => view.classes.find((one) => one.index === label);
const colour = (one) => one.colours[shown.palette] ?? one.colours.model;
const css = (one) => `rgb(${colour(one).join(' ')})`;
const visible = () => view.instances.map((one, i) => [one, i]).filter(([one]) => one.score >= shown.threshold - 1e-9);

function draw() {
  if (!view) return;
  paint.style.opacity = shown.opacity / 100;
  notes.style.visibility = shown.opacity > 0 ? 'visible' : 'hidden';
  const context = notes.getContext('2d');
  context.clearRect(0, 0, view.width, view.height);
  const zoom = (notes.clientWidth || view.width) / view.width; // text is legible on a phone, too
  const size = Math.max(Math.round(0.02 * Math.max(view.width, view.height)), 12 / zoom);
  context.font = `${size}px system-ui, sans-serif`;
  context.lineJoin = 'round';
  view.kind === 'segmentation' ? drawLabels(context, size) : drawInstances(context, size);
  drawLegend();
  paint.setAttribute('aria-label', `Prediction: ${[...legend.querySelectorAll('button')].map((b) => b.innerText.replace(/\s+/g, ' ').trim()).join(', ') || 'nothing found'}`);
}

function drawLabels(context, size) {
  const picture = new ImageData(view.width, view.height), pixels = new Uint32Array(picture.data.buffer);
  const shades = new Map(view.classes.map((one) => {
    const [red, green, blue] = colour(one), alpha = shown.lit === null || shown.lit === one.index ? 255 : 20;
    return [one.index, [(alpha << 24) | (blue << 16) | (green << 8) | red, 0xff202020]];
  }));
  const width = view.width;
  for (let i = 0; i < labels.length; i++) {
    const pair = shades.get(labels[i]);
    if (!pair) continue;
    const edge = (i % width && labels[i - 1] !== labels[i]) || (i >= width && labels[i - width] !== labels[i]);
    pixels[i] = edge ? pair[1] : pair[0];
  }
  paint.getContext('2d').putImageData(picture, 0, 0);
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  for (const [label, x, y] of view.marks) {
    if (shown.lit !== null && shown.lit !== label) continue;
    write(context, String(entry(label).number), x, y, size, true);
  }
}

function drawInstances(context, size) {
  const target = paint.getContext('2d');
  target.clearRect(0, 0, view.width, view.height);
  const all = visible().reverse(); // the highest score on top
  for (const [one, i] of all) {
    const lit = shown.lit === null || shown.lit === one.label, name = entry(one.label);
    if (masks[i]) paintMask(target, masks[i], one.crop, colour(name), lit ? 255 : 20);
    if (!lit) continue;
    const [left, top, right, bottom] = one.box;
    for (const [style, width] of [['white', size / 4], [css(name), size / 8]]) {
      context.strokeStyle = style;
      context.lineWidth = Math.max(2, width);
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }
  context.textAlign = 'left';
  context.textBaseline = 'top';
  for (const [one] of all) {
    if (shown.lit !== null && shown.lit !== one.label) continue;
    const text = `${entry(one.label).name} ${Math.round(100 * one.score)}`, width = context.measureText(text).width;
    const x = Math.min(Math.max(3, one.box[0]), Math.max(3, view.width - width - 4));
    const y = Math.min(Math.max(3, one.box[1]), view.height - 1.3 * size);
    write(context, text, x, y, size, false);
  }
}

function paintMask(target, bit, [left, top, width, height], [red, green, blue], alpha) {
  if (!width || !height) return;
  const small = document.createElement('canvas');
  [small.width, small.height] = [width, height];
  const picture = new ImageData(width, height), pixels = new Uint32Array(picture.data.buffer);
  const shade = (alpha << 24) | (blue << 16) | (green << 8) | red;
  for (let i = 0; i < pixels.length; i++) if (bit(i)) pixels[i] = shade;
  small.getContext('2d').putImageData(picture, 0, 0);
  target.drawImage(small, left, top);
}

function write(context, text, x, y, size, centred) {
  const width = context.measureText(text).width;
  context.fillStyle = centred ? 'white' : '#222';
  context.fillRect(centred ? x - width / 2 - 3 : x - 3, centred ? y - 0.65 * size : y - 2, width + 6, 1.3 * size);
  context.fillStyle = centred ? '#222' : 'white';
  context.fillText(text, x, y);
}

function drawLegend() {
  const counts = new Map();
  if (view.kind === 'detection') for (const [one] of visible()) counts.set(one.label, (counts.get(one.label) ?? 0) + 1);
  const rows = view.classes.filter((one) => view.kind === 'segmentation' || counts.has(one.index));
  const known = [...legend.querySelectorAll('button')];
  if (known.map((one) => one.dataset.label).join() !== rows.map((one) => one.index).join()) {
    legend.replaceChildren(...rows.map(makeEntry));
  }
  const sentence = view.kind === 'segmentation'
    ? `${rows.length} of ${view.all_classes} classes`
    : `${visible().length} of ${view.instances.length} instances are shown`;
  if (found.textContent !== sentence) found.textContent = sentence;
  for (const button of legend.querySelectorAll('button')) {
    const one = entry(Number(button.dataset.label)), [swatch, name, share] = button.children;
    swatch.style.background = css(one);
    name.textContent = view.kind === 'segmentation' ? `${one.number} ${one.name}` : one.name;
    const percent = one.share >= 0.05 ? `${one.share?.toFixed(1)} %` : '< 0.1 %';
    share.textContent = view.kind === 'segmentation' ? percent : `× ${counts.get(one.index)}`;
    button.setAttribute('aria-pressed', shown.pinned === one.index);
    button.classList.toggle('lit', shown.lit === one.index);
  }
}

function makeEntry(one) {
  const item = document.createElement('li'), button = document.createElement('button');
  button.type = 'button';
  button.dataset.label = one.index;
  button.append(...['swatch', 'name', 'share'].map((name) => Object.assign(document.createElement('span'), { className: name })));
  button.firstChild.setAttribute('aria-hidden', 'true');
  const light = (label) => {
    shown.lit = label;
    draw();
  };
  for (const event of ['mouseenter', 'focus']) button.addEventListener(event, () => light(one.index));
  for (const event of ['mouseleave', 'blur']) button.addEventListener(event, () => light(shown.pinned));
  button.addEventListener('click', () => {
    shown.pinned = shown.pinned === one.index ? null : one.index;
    light(shown.pinned);
  });
  item.append(button);
  return item;
}

// Where an image lies that fills its element and keeps its shape: left, top, and pixels of the screen per pixel.
function fit(picture) {
  const box = picture.getBoundingClientRect(), scale = Math.min(box.width / view.size[0], box.height / view.size[1]);
  return [box.left + (box.width - scale * view.size[0]) / 2, box.top + (box.height - scale * view.size[1]) / 2, scale];
}

// A click in the image or in the prediction asks what the point attends to. Gradio's own event ignores that small images are
// enlarged.
document.addEventListener('click', (event) => {
  const picture = event.target.closest('#image .image-frame, #prediction .layers')?.querySelector('img');
  if (!picture || !view) return;
  const [left, top, scale] = fit(picture);
  const x = Math.floor((event.clientX - left) / scale), y = Math.floor((event.clientY - top) / scale);
  if (x >= 0 && y >= 0 && x < view.size[0] && y < view.size[1]) trigger('point', { x, y });
});

function mark() {
  const picture = document.querySelector('#image .image-frame img');
  const [x, y] = point;
  let dot = document.querySelector('#point');
  if (!picture || !view || x === null || y === null || x >= view.size[0] || y >= view.size[1]) {
    dot?.remove();
    return;
  }
  const frame = picture.parentElement;
  if (dot?.parentElement !== frame) {
    dot?.remove();
    dot = Object.assign(document.createElement('span'), { id: 'point' });
    frame.append(dot);
  }
  const [left, top, scale] = fit(picture), outer = frame.getBoundingClientRect();
  dot.title = `the point ${x}, ${y}`;
  dot.style.left = `${left - outer.left + (x + 0.5) * scale}px`;
  dot.style.top = `${top - outer.top + (y + 0.5) * scale}px`;
}

// Handle an image that is pasted, or dropped outside the frame, as if it were dropped into the frame.
function give(files) {
  const file = [...(files ?? [])].find((one) => one.type.startsWith('image/'));
  const frame = document.querySelector('#image .upload-container');
  if (!file || !frame) return false;
  const data = new DataTransfer();
  data.items.add(file);
  frame.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
  return true;
}
document.addEventListener('paste', (event) => give(event.clipboardData?.files) && event.preventDefault());
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', (event) => {
  if (!event.target.closest('#image')) {
    event.preventDefault();
    give(event.dataTransfer?.files);
  }
});
new ResizeObserver(() => {
  draw();
  mark();
}).observe(document.body);

// Add accessible names and groups where Gradio sets none.
function name() {
  const set = (selector, text) => document.querySelectorAll(selector).forEach((one, i) => {
    if (one.getAttribute('aria-label') !== text(one, i)) one.setAttribute('aria-label', text(one, i));
  });
  set('#examples button', (_, i) => `Example ${i + 1}`);
  set('fieldset', (one) => one.querySelector('[data-testid=block-info]')?.innerText ?? one.id);
  for (const one of document.querySelectorAll('fieldset input[type=radio]')) {
    const group = one.closest('fieldset').id; // so that the arrow keys move between them
    if (one.name !== group) one.name = group;
  }
  set('#attention button', () => 'Attention map');
  set('#opacity button, #threshold button', (one) => `Reset: ${one.closest('#opacity') ? 'opacity' : 'lowest score'}`);
  const text = document.querySelector('#attention-caption p')?.innerText ?? '';
  for (const one of document.querySelectorAll('#attention img')) if (one.alt !== text) one.alt = text;
  for (const one of document.querySelectorAll('svg:not([aria-hidden])')) one.setAttribute('aria-hidden', 'true');
  mark();
}
let due = 0;
new MutationObserver(() => {
  cancelAnimationFrame(due);
  due = requestAnimationFrame(name);
}).observe(document.body, { childList: true, subtree: true, attributeFilter: ['name'] });

window.mmtwins = {
  set(name, value) {
    shown[name] = value;
    draw();
  },
  mark(x, y) {
    point = [x, y];
    mark();
  },
  save(file) {
    if (!file) return;
    const link = Object.assign(document.createElement('a'), { href: file.url, download: file.orig_name });
    document.body.append(link);
    link.click();
    link.remove();
  },
};
watch('value', load);
load();
