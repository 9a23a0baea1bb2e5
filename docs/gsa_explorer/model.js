/* The closed forms of mmtwins.analysis.cost and of the parameters. tests/project/test_gsa_explorer.py compares them with Python. */
'use strict';

const DEPTHS = { small: [2, 2, 10, 4], base: [2, 2, 18, 2], large: [2, 2, 18, 2] };
const CHANNELS = { small: 64, base: 96, large: 128 }; // of stage 1; each stage doubles them
const MLP_RATIO = 4;
const PATCHES = [4, 2, 2, 2]; // sides, in pixels or tokens
const PUBLISHED = { k: [7, 7, 7, 7], r: [8, 4, 2, 1] };

// The three sub-samplings: MACs of one key, and parameters without the norm, for C channels and sub-windows of side r > 1.
const SUBSAMPLINGS = {
  conv: { macs: (C, r) => C * C * r * r, parameters: (C, r) => C * C * r * r + C },
  separable: { macs: (C, r) => C * r * r + C * C, parameters: (C, r) => C * r * r + C * C + C },
  pool: { macs: () => 0, parameters: () => 0 },
};
// Whether padding tokens attend, from whether the height and the width of a map need padding.
const WINDOW_PADDINGS = { masked: () => false, zero: (h, w) => h || w, meituan: (h, w) => h !== w };

const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);

/* Tokens (H, W) of each stage, for an image in pixels. */
function mapSizes(height, width) {
  return PATCHES.map((side) => [height, width] = [Math.floor(height / side), Math.floor(width / side)]);
}

/* Pairs of tokens along one axis of length n, cut into windows of side k: the sum of their squares. */
const cut = (n, k) => Math.floor(n / k) * k * k + (n % k) ** 2;

function lsaMacs(H, W, C, k, padding) {
  let projected = H * W, pairs = cut(H, k) * cut(W, k);
  if (WINDOW_PADDINGS[padding](H % k > 0, W % k > 0)) {
    projected = Math.ceil(H / k) * Math.ceil(W / k) * k * k;
    pairs = projected * k * k;
  }
  return { projections: (3 * projected + H * W) * C * C, attention: 2 * pairs * C };
}

const numKeys = (H, W, r) => Math.floor(H / r) * Math.floor(W / r);

function gsaMacs(H, W, C, r, subsampling) {
  const keys = numKeys(H, W, r);
  return {
    projections: (2 * H * W + 2 * keys) * C * C,
    subsampling: r > 1 ? keys * SUBSAMPLINGS[subsampling].macs(C, r) : 0,
    attention: 2 * H * W * keys * C,
  };
}

/* MACs and parameters of each stage of the backbone. A setting has arch, channels, height, width, k, r, subsampling, padding. */
function backbone(setting) {
  let inside = 3;
  return mapSizes(setting.height, setting.width).map(([H, W], i) => {
    const C = setting.channels * 2 ** i, depth = DEPTHS[setting.arch][i], gsaBlocks = Math.floor(depth / 2);
    const k = setting.k[i], r = setting.r[i], lsaBlocks = depth - gsaBlocks;
    const lsa = lsaMacs(H, W, C, k, setting.padding), gsa = gsaMacs(H, W, C, r, setting.subsampling);
    const macs = {
      'LSA, products': lsaBlocks * lsa.attention,
      'GSA, products': gsaBlocks * gsa.attention,
      'GSA, sub-sampling': gsaBlocks * gsa.subsampling,
      'projections': lsaBlocks * lsa.projections + gsaBlocks * gsa.projections,
      'MLP, patches, PEG': depth * 2 * H * W * C * C * MLP_RATIO + H * W * C * (inside * PATCHES[i] ** 2 + 9),
    };
    const ofSubsampling = r > 1 ? SUBSAMPLINGS[setting.subsampling].parameters(C, r) + 2 * C : 0;
    const ofBlock = 4 * C * C + 4 * C + 2 * MLP_RATIO * C * C + (MLP_RATIO + 1) * C + 4 * C;
    const parameters = C * (inside * PATCHES[i] ** 2 + 1) + 2 * C + 10 * C + depth * ofBlock + gsaBlocks * ofSubsampling + 2 * C;
    inside = C;
    return { H, W, C, k, r, keys: [Math.floor(H / r), Math.floor(W / r)], lsa, gsa, macs, total: sum(Object.values(macs)), parameters };
  });
}

/* The windows and sub-windows with the fewest MACs: mmtwins.analysis.cost.calibrate with its defaults. */
function calibrate(setting, minKeys = 49, maxUnseen = 0.05) {
  const chosen = { k: [], r: [] };
  mapSizes(setting.height, setting.width).forEach(([H, W], i) => {
    const C = setting.channels * 2 ** i, gsaBlocks = Math.floor(DEPTHS[setting.arch][i] / 2);
    const lsaBlocks = DEPTHS[setting.arch][i] - gsaBlocks, longest = Math.max(H, W);
    const smallest = Math.min(Math.ceil(Math.sqrt(minKeys)), longest), cheapest = {};
    for (let k = longest; k >= smallest; k -= 1) {
      const macs = lsaBlocks * sum(Object.values(lsaMacs(H, W, C, k, setting.padding)));
      cheapest[k] = cheapest[k + 1] && cheapest[k + 1].macs < macs ? cheapest[k + 1] : { macs, k };
    }
    let best = { macs: Infinity };
    for (let r = 1; r <= Math.min(H, W); r += 1) {
      const keys = numKeys(H, W, r);
      if (r > 1 && (keys < minKeys || keys * r * r < (1 - maxUnseen) * H * W)) continue;
      const window = cheapest[Math.max(smallest, r - 1)];
      const macs = window.macs + gsaBlocks * sum(Object.values(gsaMacs(H, W, C, r, setting.subsampling)));
      if (macs < best.macs) best = { macs, k: window.k, r };
    }
    chosen.k.push(best.k);
    chosen.r.push(best.r);
  });
  return chosen;
}

/* MACs over the side k of windows and sub-windows: [k, LSA, GSA] for each point of the curve. */
function costCurve(stage, how, subsampling, padding) {
  const { H, W, C } = stage, last = Math.min(H, W);
  if (how === 'paper') {
    return Array.from({ length: 101 }, (_, i) => last ** (i / 100)).map((k) => [k, k * k * H * W * C, (H * W) ** 2 * C / (k * k)]);
  }
  return Array.from({ length: last }, (_, i) => i + 1).map((k) => [
    k, sum(Object.values(lsaMacs(H, W, C, k, padding))), sum(Object.values(gsaMacs(H, W, C, k, subsampling))),
  ]);
}

/* Where the sum of the two is least: (H W)^(1/4) by the paper's formula, else the best whole number. */
function leastCost(stage, how, curve) {
  if (how === 'paper') return [(stage.H * stage.W) ** 0.25, 2 * stage.H * stage.W * stage.C * Math.sqrt(stage.H * stage.W)];
  const best = curve.reduce((one, other) => (other[1] + other[2] < one[1] + one[2] ? other : one));
  return [best[0], best[1] + best[2]];
}
