"use strict";
// How many pictures lie above a threshold, and the intervals of their shares.
globalThis.desk = globalThis.desk || {};

// The same formula as `wilson` in core/thresholds.py.
desk.wilson = (count, total, z) => {
  if (!total) return [0, 1];
  const share = count / total, spread = z * z / total;
  const middle = (share + spread / 2) / (1 + spread);
  const half = z / (1 + spread) * Math.sqrt((share * (1 - share) + spread / 4) / total);
  return [Math.min(Math.max(0, middle - half), share), Math.max(Math.min(1, middle + half), share)];
};

// How many of `sorted`, ascending, are above `alpha`.
desk.above = (sorted, alpha) => {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > alpha) high = middle; else low = middle + 1;
  }
  return sorted.length - low;
};

desk.NORMAL = 0;
desk.ANOMALY = 1;
desk.UNKNOWN = -1;

// Scores by what the pictures are, sorted, so that a threshold is judged at once. Of a group of
// copies one is `alone`: intervals count that one.
desk.Counts = class {
  constructor(scores, truth, kind, kinds, alone) {
    const select = (wanted) => {
      const all = [], apart = [];
      for (let i = 0; i < scores.length; i++) {
        if (!wanted(i)) continue;
        all.push(scores[i]);
        if (alone[i]) apart.push(scores[i]);
      }
      return [all, apart].map((values) => Float32Array.from(values).sort());
    };
    const side = (what) => select((i) => truth[i] === what);
    [this.normal, this.normalAlone] = side(desk.NORMAL);
    [this.anomaly, this.anomalyAlone] = side(desk.ANOMALY);
    [this.unknown, this.unknownAlone] = side(desk.UNKNOWN);
    this.kinds = kinds.map((name, k) => {
      const [all, apart] = select((i) => truth[i] === desk.ANOMALY && kind[i] === k);
      return { name, scores: all, alone: apart };
    }).filter((each) => each.scores.length);
  }

  at(alpha, z) {
    const side = (sorted, alone) => {
      const count = desk.above(sorted, alpha), total = sorted.length;
      const interval = desk.wilson(desk.above(alone, alpha), alone.length, z);
      return { count, total, share: total ? count / total : 0, interval };
    };
    return {
      alarms: side(this.normal, this.normalAlone), finds: side(this.anomaly, this.anomalyAlone),
      unknown: side(this.unknown, this.unknownAlone),
      kinds: this.kinds.map((each) => ({ name: each.name, ...side(each.scores, each.alone) })),
    };
  }
};
