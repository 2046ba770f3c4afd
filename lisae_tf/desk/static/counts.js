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

// Scores by what the pictures are, sorted, so that a threshold is judged at once. Intervals go by
// how many groups of copies there are for each normal picture and each anomaly.
desk.Counts = class {
  constructor(scores, truth, kind, kinds, [normalGroups, anomalyGroups] = [1, 1]) {
    this.groups = { normal: normalGroups, anomaly: anomalyGroups };
    const sides = new Map([[desk.NORMAL, []], [desk.ANOMALY, []], [desk.UNKNOWN, []]]);
    const byKind = kinds.map(() => []);
    for (let i = 0; i < scores.length; i++) {
      sides.get(truth[i]).push(scores[i]);
      if (truth[i] === desk.ANOMALY) byKind[kind[i]].push(scores[i]);
    }
    const sorted = (values) => Float32Array.from(values).sort();
    this.normal = sorted(sides.get(desk.NORMAL));
    this.anomaly = sorted(sides.get(desk.ANOMALY));
    this.unknown = sorted(sides.get(desk.UNKNOWN));
    this.kinds = kinds.map((name, k) => ({ name, scores: sorted(byKind[k]) }))
      .filter((each) => each.scores.length);
  }

  at(alpha, z) {
    const side = (sorted, groups) => {
      const count = desk.above(sorted, alpha), total = sorted.length;
      const share = total ? count / total : 0;
      const counted = total && Math.max(1, Math.round(total * groups));
      return { count, total, share, interval: desk.wilson(Math.round(share * counted), counted, z) };
    };
    const { normal, anomaly } = this.groups;
    return {
      alarms: side(this.normal, normal), finds: side(this.anomaly, anomaly),
      unknown: side(this.unknown, 1),
      kinds: this.kinds.map((each) => ({ name: each.name, ...side(each.scores, anomaly) })),
    };
  }
};
