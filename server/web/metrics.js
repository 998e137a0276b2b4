// Reads /metrics, and says what happened between two readings.

// Every sample that was ever seen has a place: its name and labels are kept once, a reading is
// the values alone.
const places = new Map();  // "name{labels}" → place
const samples = [];        // by place: {name, labels}

function placeOf(key) {
  let place = places.get(key);
  if (place !== undefined) return place;
  place = samples.length;
  places.set(key, place);
  const brace = key.indexOf('{');
  const labels = {};
  for (const [, name, value] of key.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
  samples.push({ name: (brace < 0 ? key : key.slice(0, brace)).slice('qianyi_'.length), labels });
  return place;
}

// {at: milliseconds, values} of a text in Prometheus' format.
export function readingOf(text, at = Date.now()) {
  const found = [];
  for (const [, key, value] of text.matchAll(/^(qianyi_\w+(?:\{.*\})?) (\S+)/gm)) {
    found[placeOf(key)] = value === '+Inf' ? Infinity : Number(value);
  }
  return { at, values: Float64Array.from(found, (value) => value ?? 0) };
}

function* placesOf(name, model) {
  for (let i = 0; i < samples.length; ++i) {
    const { name: its, labels } = samples[i];
    if (its === name && (!model || labels.model === undefined || labels.model === model)) yield i;
  }
}

const at = (reading, place) => reading.values[place] ?? 0;

// Sum of a metric over its labels, of one model ('' = all).
export function sum(reading, name, model, where = {}) {
  let total = 0;
  for (const place of placesOf(name, model)) {
    const { labels } = samples[place];
    if (Object.entries(where).every(([key, value]) => labels[key] === value)) total += at(reading, place);
  }
  return total;
}

// {value of the label: sum}.
export function by(reading, name, label, model) {
  const sums = {};
  for (const place of placesOf(name, model)) {
    const value = samples[place].labels[label];
    sums[value] = (sums[value] ?? 0) + at(reading, place);
  }
  return sums;
}

// What was added to a counter since `before`; one that began anew counts from zero.
export function since(now, before, read) {
  const difference = read(now) - read(before);
  return difference >= 0 ? difference : read(now);
}

// Quantiles of what a histogram got between two readings, as Prometheus estimates them: linear
// within a bucket. Null where it got nothing.
export function quantiles(now, before, name, model, wanted) {
  const buckets = new Map();  // upper bound → count
  for (const place of placesOf(`${name}_bucket`, model)) {
    const { le } = samples[place].labels;
    const bound = le === '+Inf' ? Infinity : Number(le);
    const count = at(now, place) - at(before, place);
    buckets.set(bound, (buckets.get(bound) ?? 0) + count);
  }
  const sorted = [...buckets].sort((a, b) => a[0] - b[0]);
  const all = sorted.at(-1)?.[1] ?? 0;
  if (all <= 0) return wanted.map(() => null);
  return wanted.map((q) => {
    const rank = q * all;
    const i = sorted.findIndex(([, count]) => count >= rank);
    const [upper, count] = sorted[i];
    const [lower, below] = i > 0 ? sorted[i - 1] : [0, 0];
    if (upper === Infinity) return lower;  // beyond the last bound
    return lower + (upper - lower) * (count > below ? (rank - below) / (count - below) : 1);
  });
}

export function labelsOf(name, label) {
  return [...new Set([...placesOf(name, '')].map((place) => samples[place].labels[label]))];
}
