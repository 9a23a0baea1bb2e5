/* The controls, the picture, the chart and the table. */
'use strict';

const find = (id) => document.getElementById(id);
const scene = new Image();
const setting = { arch: 'small', channels: 64, height: 512, width: 512, ...structuredClone(PUBLISHED), subsampling: 'conv', padding: 'masked' };
const view = { stage: 0, how: 'paper', square: true, together: false, point: [0.69, 0.39] }; // the point: share of the width, height
const giga = (macs) => (macs / 1e9).toFixed(2);
const million = (number) => (number / 1e6).toFixed(1);
const by = ([rows, columns]) => `${rows} x ${columns}`;

/* Keep the sides inside the maps: a sub-window must fit, a larger window is the whole map. */
function clampSides() {
  mapSizes(setting.height, setting.width).forEach(([H, W], i) => {
    setting.k[i] = Math.min(setting.k[i], Math.max(H, W));
    setting.r[i] = Math.min(setting.r[i], H, W);
  });
}

function update() {
  clampSides();
  const stages = backbone(setting), published = backbone({ ...setting, ...PUBLISHED, r: PUBLISHED.r.map((r, i) => Math.min(r, stages[i].H, stages[i].W)), subsampling: 'conv' });
  for (const name of ['arch', 'subsampling', 'padding', 'channels', 'height', 'width']) find(name).value = setting[name];
  const { H, W } = stages[view.stage];
  for (const [name, most] of [['k', Math.min(Math.max(H, W), 64)], ['r', Math.min(H, W, 64)]]) {
    find(name).max = Math.max(most, setting[name][view.stage]);
    find(name).value = setting[name][view.stage];
  }
  find('square').checked = view.square;
  const units = { channels: '', height: ' pixels', width: ' pixels', k: ' tokens', r: ' tokens' };
  for (const one of document.querySelectorAll('output')) one.value = find(one.htmlFor.value).value + units[one.htmlFor.value];
  [...find('stages').children].forEach((button, i) => {
    button.setAttribute('aria-checked', i === view.stage);
    button.tabIndex = i === view.stage ? 0 : -1;
  });
  drawPicture(stages[view.stage]);
  drawCurve(stages[view.stage]);
  drawTable(stages, published);
  const words = Object.entries(setting).map(([name, value]) => `${name}=${value}`);
  clearTimeout(view.address); // browsers allow few changes a second
  view.address = setTimeout(() => history.replaceState(null, '', `#${words.join('&')}&stage=${view.stage + 1}`), 300);
}

function drawPicture(stage) {
  const canvas = find('canvas'), { height, width } = setting, scale = 900 / Math.max(height, width);
  [canvas.width, canvas.height] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  const pen = canvas.getContext('2d'), side = 4 * 2 ** view.stage * scale, [rows, columns] = stage.keys;
  if (scene.complete && scene.naturalWidth) pen.drawImage(scene, 0, 0, canvas.width, canvas.height);
  const right = columns * stage.r * side, bottom = rows * stage.r * side;
  pen.fillStyle = 'rgba(207, 207, 207, 0.85)';
  pen.fillRect(right, 0, canvas.width, canvas.height);
  pen.fillRect(0, bottom, right, canvas.height);
  const row = Math.min(Math.floor(view.point[1] * height * scale / side), stage.H - 1);
  const column = Math.min(Math.floor(view.point[0] * width * scale / side), stage.W - 1);
  const top = Math.floor(row / stage.k) * stage.k, left = Math.floor(column / stage.k) * stage.k;
  const window_ = [left, top, Math.min(stage.k, stage.W - left), Math.min(stage.k, stage.H - top)].map((tokens) => tokens * side);
  pen.fillStyle = 'rgba(0, 158, 115, 0.45)';
  pen.fillRect(...window_);
  const step = stage.r * side, at = (i) => Math.round(i * step);
  for (const [colour, thick] of step > 5 ? [['black', 4], ['white', 2]] : [['white', 0.6]]) {
    [pen.strokeStyle, pen.lineWidth] = [colour, thick];
    pen.beginPath();
    for (let i = 0; i <= columns; i += 1) { pen.moveTo(at(i), 0); pen.lineTo(at(i), bottom); }
    for (let i = 0; i <= rows; i += 1) { pen.moveTo(0, at(i)); pen.lineTo(right, at(i)); }
    pen.stroke();
  }
  for (const [colour, thick] of [['black', 8], ['white', 4]]) {
    [pen.strokeStyle, pen.lineWidth] = [colour, thick];
    pen.strokeRect(...window_);
  }
  pen.fillStyle = '#ff9d5c';
  [pen.strokeStyle, pen.lineWidth] = ['black', 2];
  pen.fillRect(column * side, row * side, Math.max(side, 7), Math.max(side, 7));
  pen.strokeRect(column * side, row * side, Math.max(side, 7), Math.max(side, 7));
  const unseen = 1 - rows * columns * stage.r ** 2 / (stage.H * stage.W), whole = window_[2] * window_[3] / side ** 2;
  find('unseen-sign').hidden = !unseen;
  find('picture-title').textContent = `Stage ${view.stage + 1}: ${by([stage.H, stage.W])} tokens of ${4 * 2 ** view.stage} pixels`;
  find('picture-text').textContent = `This token attends to ${Math.round(whole)} tokens of its window, and to ${by(stage.keys)} = ` +
    `${rows * columns} keys of sub-windows` + (unseen ? `. ${(100 * unseen).toFixed(1)} % of the tokens fill no sub-window.` : '.');
}

function drawCurve(stage) {
  const points = costCurve(stage, view.how, setting.subsampling, setting.padding), box = { left: 62, right: 440, top: 22, bottom: 228 };
  const [best, least] = leastCost(stage, view.how, points), last = Math.max(points[points.length - 1][0], 2);
  const values = points.flatMap(([, lsa, gsa]) => [lsa, gsa, lsa + gsa]).filter((one) => one > 0);
  const low = Math.log10(Math.min(...values)), high = Math.max(Math.log10(Math.max(...values)), low + 0.5);
  const x = (k) => box.left + Math.log(k) / Math.log(last) * (box.right - box.left);
  const y = (macs) => box.bottom - (Math.log10(macs) - low) / (high - low) * (box.bottom - box.top);
  const path = (name, of) => `<path class="${name}" d="M${points.map((p) => `${x(p[0]).toFixed(1)},${y(of(p)).toFixed(1)}`).join('L')}"/>`;
  const label = (text, at, more = '') => `<text x="${at[0]}" y="${at[1]}" ${more}>${text}</text>`;
  const unit = (power) => (power >= 9 ? `${10 ** (power - 9)} G` : power >= 6 ? `${10 ** (power - 6)} M` : `${10 ** (power - 3)} k`);
  let drawn = '';
  const powers = Array.from({ length: 20 }, (_, i) => i).filter((power) => power >= low && power <= high);
  for (const power of powers.filter((_, i) => i % Math.ceil(powers.length / 6) === 0)) {
    drawn += `<path class="axis" d="M${box.left},${y(10 ** power)}H${box.right}"/>` + label(unit(power), [box.left - 6, y(10 ** power) + 4], 'text-anchor="end"');
  }
  for (const k of [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].filter((one) => one <= last)) {
    drawn += `<path class="axis" d="M${x(k)},${box.top}V${box.bottom}"/>` + label(k, [x(k), box.bottom + 17], 'text-anchor="middle"');
  }
  drawn += path('lsa', (p) => p[1]) + path('gsa', (p) => p[2]) + path('sum', (p) => p[1] + p[2]);
  drawn += label('MACs', [box.left - 6, 12], 'text-anchor="end"') + label('k (tokens)', [box.right, box.bottom + 34], 'text-anchor="end"');
  ['LSA', 'GSA', 'sum'].forEach((name, i) => { drawn += label(name, [box.left + 60 * i, box.bottom + 36], `class="${name.toLowerCase()}" font-weight="bold"`); });
  drawn += `<circle cx="${x(best)}" cy="${y(least)}" r="6" fill="var(--ink)"/>`;
  const k = Math.min(stage.k, last), cost = curveAt(stage, k);
  drawn += `<rect x="${x(k) - 5}" y="${y(cost) - 5}" width="10" height="10" fill="var(--card)" stroke="var(--ink)" stroke-width="2"/>`;
  find('chart').innerHTML = drawn;
  find('curve-text').textContent = `Stage ${view.stage + 1}: least (dot) at k = ${view.how === 'paper' ? best.toFixed(2) : best}, ` +
    `${(least / 1e6).toFixed(2)} M MACs; at k = ${k} (square) ${(cost / 1e6).toFixed(2)} M, ${((cost / least - 1) * 100).toFixed(0)} % more.`;
}

/* The sum of LSA and GSA at one k, as the curve has it. */
function curveAt(stage, k) {
  const { H, W, C } = stage;
  if (view.how === 'paper') return k * k * H * W * C + (H * W) ** 2 * C / (k * k);
  const [, lsa, gsa] = costCurve(stage, view.how, setting.subsampling, setting.padding)[k - 1];
  return lsa + gsa;
}

function drawTable(stages, published) {
  const total = sum(stages.map((one) => one.total)), parameters = sum(stages.map((one) => one.parameters));
  const before = sum(published.map((one) => one.total)), weights = sum(published.map((one) => one.parameters));
  find('total').innerHTML = `<b><span data-macs="${total}">${giga(total)}</span> GMACs</b>, <b><span data-parameters="${parameters}">${million(parameters)}</span> M parameters</b>. ` +
    `With published windows and the convolution: ${giga(before)} GMACs, ${million(weights)} M.`;
  const rows = [
    ['map (tokens)', (one) => by([one.H, one.W])], ['channels', (one) => one.C], ['window side k', (one) => one.k],
    ['sub-window side r', (one) => one.r], ['keys of GSA', (one) => `<span data-keys="${one.keys}">${by(one.keys)}</span>`],
    ...Object.keys(stages[0].macs).map((part) => [`${part} (G)`, (one) => `<span data-macs="${one.macs[part]}">${giga(one.macs[part])}</span>`]),
    ['all MACs (G)', (one) => `<b data-total="${one.total}">${giga(one.total)}</b>`], ['parameters (M)', (one) => million(one.parameters)],
  ];
  const chosen = (i) => (i === view.stage ? ' class="chosen"' : '');
  const head = stages.map((_, i) => `<th scope="col"${chosen(i)}>stage ${i + 1}</th>`).join('');
  find('table').innerHTML = `<thead><tr><th></th>${head}</tr></thead><tbody>` + rows.map(([name, of]) =>
    `<tr><th scope="row">${name}</th>${stages.map((one, i) => `<td${chosen(i)}>${of(one)}</td>`).join('')}</tr>`).join('') + '</tbody>';
  const extra = setting.padding === 'masked' ? [] : [`window_padding='${setting.padding}'`];
  if (setting.subsampling !== 'conv') extra.push(`subsampling='${setting.subsampling}'`);
  find('code').textContent = setting.channels === CHANNELS[setting.arch]
    ? `TwinsSVTBackbone(${[`arch='${setting.arch}'`, `window_sizes=(${setting.k.join(', ')})`, `sr_ratios=(${setting.r.join(', ')})`, ...extra].join(', ')})` : '';
  find('code').hidden = !find('code').textContent;
}

/* Take over what an address like #arch=base&height=800&k=13,8,7,7 says; what is wrong is left out. */
function readAddress() {
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    const numbers = text.split(',').map(Number), whole = numbers.every((one) => Number.isInteger(one) && one >= 1);
    if (['arch', 'subsampling', 'padding'].includes(name) && [...find(name).options].some((one) => one.value === text)) setting[name] = text;
    if (['k', 'r'].includes(name) && whole && numbers.length === 4) setting[name] = numbers;
    if (['height', 'width', 'channels'].includes(name) && whole) setting[name] = Math.min(Math.max(numbers[0], Number(find(name).min)), Number(find(name).max));
    if (name === 'stage' && numbers[0] in { 1: 1, 2: 1, 3: 1, 4: 1 }) view.stage = numbers[0] - 1;
  }
  view.square = setting.height === setting.width;
}

function listen() {
  const on = (id, event, change) => find(id).addEventListener(event, () => { change(find(id)); update(); });
  on('arch', 'change', (one) => Object.assign(setting, { arch: one.value, channels: CHANNELS[one.value] }));
  for (const name of ['subsampling', 'padding']) on(name, 'change', (one) => { setting[name] = one.value; });
  on('channels', 'input', (one) => { setting.channels = Number(one.value); });
  for (const name of ['height', 'width']) {
    on(name, 'input', (one) => {
      setting[name] = Number(one.value);
      if (view.square) setting.height = setting.width = Number(one.value);
    });
  }
  on('square', 'change', (one) => {
    view.square = one.checked;
    if (view.square) setting.width = setting.height;
  });
  on('k', 'input', (one) => { view.together ? setting.k.fill(Number(one.value)) : setting.k[view.stage] = Number(one.value); });
  on('r', 'input', (one) => { setting.r[view.stage] = Number(one.value); });
  on('together', 'change', (one) => {
    view.together = one.checked;
    if (view.together) setting.k.fill(setting.k[view.stage]);
  });
  on('published', 'click', () => Object.assign(setting, structuredClone(PUBLISHED)));
  on('calibrate', 'click', () => Object.assign(setting, calibrate(setting)));
  for (const one of document.querySelectorAll('[name=how]')) one.addEventListener('change', () => { view.how = one.value; update(); });
  PATCHES.forEach((_, i) => {
    const button = Object.assign(document.createElement('button'), { textContent: i + 1, type: 'button' });
    button.setAttribute('role', 'radio');
    button.addEventListener('click', () => { view.stage = i; update(); });
    button.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: 3, ArrowUp: 3 }[event.key];
      if (!step) return;
      event.preventDefault();
      view.stage = (view.stage + step) % 4;
      update();
      find('stages').children[view.stage].focus();
    });
    find('stages').append(button);
  });
  find('canvas').addEventListener('click', (event) => {
    const box = find('canvas').getBoundingClientRect();
    const scale = Math.min(box.width / find('canvas').width, box.height / find('canvas').height);
    const margins = [(box.width - find('canvas').width * scale) / 2, (box.height - find('canvas').height * scale) / 2];
    view.point = [(event.clientX - box.left - margins[0]) / (find('canvas').width * scale), (event.clientY - box.top - margins[1]) / (find('canvas').height * scale)]
      .map((share) => Math.min(Math.max(share, 0), 0.9999));
    update();
  });
  addEventListener('hashchange', () => { readAddress(); update(); });
}

listen();
readAddress();
scene.onload = update;
scene.src = 'scene.jpg';
update();
