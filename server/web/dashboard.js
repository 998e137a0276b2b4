// The dashboard: reads /metrics once a second while somebody looks, and draws what changed.

import { $, add, begin, bytes, call, locale, number, setStatus, t, watch } from './common.js';
import { Chart, count, percent, seconds } from './chart.js';
import { WORDS } from './dashboard-words.js';
import { by, labelsOf, quantiles, readingOf, since, sum } from './metrics.js';

const RANGES = { minute: 60, five: 300, quarter: 900, hour: 3600 };  // seconds
const RATE_SECONDS = 5;       // over which rates are taken
const QUANTILE_SECONDS = 30;  // and quantiles
const LEAST_SECONDS = 30;     // that are shown, however short it has been looking
const MOST_READINGS = 3600;

const state = { range: 'five', model: '', paused: false, window: null, key: '', begun: null };
const readings = [];  // oldest first

// ---- What the charts show ----

// The reading `back` seconds before the one at `i`, or the oldest one.
function earlier(i, back) {
  let j = i;
  while (j > 0 && readings[i].at - readings[j].at < back * 1000) --j;
  return readings[j];
}

// Per second, of what `read` counts.
function rate(i, read, scale = 1) {
  const now = readings[i], before = earlier(i, RATE_SECONDS);
  if (now === before) return null;
  return scale * since(now, before, read) / ((now.at - before.at) / 1000);
}
const rateOf = (i, name, where) => rate(i, (r) => sum(r, name, state.model, where));

// Rates by a label's values, of those that ever moved or are `always` shown.
function ratesBy(i, name, label, scale = 1) {
  return Object.fromEntries(labelsOf(name, label).map((value) =>
    [value, rate(i, (r) => sum(r, name, name === 'rejected_total' ? '' : state.model, { [label]: value }), scale)]));
}

function percentiles(id, name) {
  return {
    id, title: () => t(id), labels: ['p50', 'p90', 'p99'], name: (label) => label, format: seconds, least: 0.001,
    values(i) {
      const [p50, p90, p99] = quantiles(readings[i], earlier(i, QUANTILE_SECONDS), name, state.model, [.5, .9, .99]);
      return { p50, p90, p99 };
    },
  };
}

const words = (label) => t(label) ?? label;
const gauge = (i, name, where) => sum(readings[i], name, state.model, where);
const ratio = (above, below) => (below > 0 ? above / below : null);

const CHARTS = [
  { id: 'throughput', labels: ['generated', 'prompt'], format: count, least: 1,
    values: (i) => ({ generated: rateOf(i, 'generated_tokens_total'), prompt: rateOf(i, 'prompt_tokens_total') }) },
  percentiles('firstToken', 'time_to_first_token_seconds'),
  percentiles('interToken', 'inter_token_seconds'),
  percentiles('queue', 'queue_seconds'),
  percentiles('whole', 'request_seconds'),
  { id: 'queueNow', labels: ['running', 'waiting', 'places'], format: count, least: 1,
    values: (i) => ({ running: gauge(i, 'requests_running'), waiting: gauge(i, 'requests_waiting'),
      places: gauge(i, 'batch_limit') }) },
  { id: 'batch', labels: ['sequences', 'limit'], format: count, least: 1,
    values: (i) => ({ sequences: ratio(rateOf(i, 'step_sequences_total'), rateOf(i, 'steps_total')),
      limit: gauge(i, 'batch_limit') }) },
  { id: 'cache', labels: ['held'], format: percent, least: 0.01,
    values: (i) => ({ held: ratio(gauge(i, 'kv_cache_tokens', { kind: 'held' }),
      gauge(i, 'kv_cache_tokens', { kind: 'limit' })) }) },
  { id: 'process', labels: ['resident', 'budget', 'kv_cache'], format: bytes, least: 1024, binary: true,
    values: (i) => by(readings[i], 'memory_bytes', 'kind', '') },
  { id: 'tiers', labels: [], format: bytes, least: 1024, binary: true, values: (i) => by(readings[i], 'weight_bytes', 'tier', state.model) },
  { id: 'link', labels: ['disk'], format: (value) => `${bytes(value)}/s`, least: 1024, binary: true,
    values: (i) => ratesBy(i, 'link_bytes_total', 'link') },
  { id: 'share', labels: ['disk'], format: percent, least: 0.01,
    shown: () => labelsOf('link_limit_bytes_per_second', 'link').length > 0,
    values(i) {  // while steps run; the links are those of any one model
      const model = state.model || labelsOf('link_limit_bytes_per_second', 'model')[0];
      const limits = by(readings[i], 'link_limit_bytes_per_second', 'link', model);
      const moved = ratesBy(i, 'link_bytes_total', 'link');
      const busy = rateOf(i, 'step_seconds_total');
      return Object.fromEntries(Object.keys(limits).map((link) => [link, ratio(moved[link] ?? 0, busy * limits[link])]));
    } },
  { id: 'stall', labels: ['ofStep'], format: percent, least: 0.01,
    values: (i) => ({ ofStep: ratio(rateOf(i, 'weight_stall_seconds_total'), rateOf(i, 'step_seconds_total')) }) },
  { id: 'rejected', labels: [], format: (value) => t('perMinute')(count(value)), least: 1,
    name: (label) => t('reasons')[label] ?? label, values: (i) => ratesBy(i, 'rejected_total', 'reason', 60) },
  { id: 'finished', labels: ['stop', 'length', 'cancelled', 'failed'], format: (value) => t('perMinute')(count(value)),
    least: 1, values: (i) => ratesBy(i, 'finished_total', 'reason', 60) },
  { id: 'images', labels: ['steps', 'codes'], format: (value) => t('perSecond')(count(value)), least: 1,
    shown: () => labelsOf('image_steps_total', 'model').length > 0,
    values: (i) => ({ steps: rateOf(i, 'image_steps_total'), codes: rateOf(i, 'image_codes_total') }) },
];

const charts = [];

// ---- What is in view ----

function inView() {
  if (state.window) return state.window;
  const to = readings.at(-1)?.at ?? Date.now(), begun = state.begun ?? to;
  const from = Math.max(to - RANGES[state.range] * 1000, Math.min(begun, to - LEAST_SECONDS * 1000));
  return [from, to];
}

// By a person: null goes back to now.
function zoom(from, to) {
  const oldest = readings[0]?.at ?? Date.now(), newest = readings.at(-1)?.at ?? Date.now();
  if (from === null || to - from > MOST_READINGS * 1000) {
    state.window = null;
  } else {
    const width = Math.max(to - from, 5000);
    const end = Math.min(Math.max(to, oldest + width / 2), newest);
    state.window = [end - width, end];
  }
  draw();
}

function draw() {
  const view = inView();
  for (const chart of charts) chart.draw(view);
  $('now').disabled = state.window === null;
  const notes = [t('since')(new Date(state.begun ?? Date.now()).toLocaleTimeString(locale(), { hour12: false }))];
  if (state.paused) notes.push(t('paused'));
  if (state.window) notes.push(t('zoomed'));
  const note = notes.join(' · ');
  if ($('state').textContent !== note) $('state').textContent = note;
  $('pause').textContent = t(state.paused ? 'resume' : 'pause');
}

// ---- Tiles ----

function span(value) {
  const hours = value / 3600;
  if (hours < 1) return seconds(value);
  return hours < 48 ? `${number(hours, 1)} h` : `${number(hours / 24, 1)} d`;
}

function tiles() {
  const last = readings.length - 1;
  if (last < 0) return;
  const [p50, p99] = quantiles(readings[last], earlier(last, 60), 'time_to_first_token_seconds', state.model, [.5, .99]);
  const memory = by(readings[last], 'memory_bytes', 'kind', '');
  const begun = sum(readings[last], 'start_time_seconds', '');
  const refused = rate(last, (r) => sum(r, 'rejected_total', ''), 60);
  const shown = {
    tokens: count(rateOf(last, 'generated_tokens_total') ?? 0),
    first: p50 === null ? '–' : `${seconds(p50)} · ${seconds(p99)}`,
    requests: `${count(gauge(last, 'requests_running'))} · ${count(gauge(last, 'requests_waiting'))}`,
    memory: `${bytes(memory.resident ?? 0)} / ${bytes(memory.budget ?? 0)}`,
    refused: count(refused ?? 0),
    uptime: span(Math.max(0, readings[last].at / 1000 - begun)),
  };
  for (const [id, value] of Object.entries(shown)) {
    let tile = $(`tile-${id}`);
    if (!tile) {
      const group = add($('tiles'), 'div');
      add(group, 'dt', '', t(id)).dataset.text = id;
      tile = add(group, 'dd');
      tile.id = `tile-${id}`;
    }
    tile.textContent = value;
  }
}

// ---- Readings ----

function spec(chart) {
  return { ...chart, title: () => t(chart.id), name: chart.name ?? words };
}

function pushCharts(i) {
  const now = readings[i].at;
  const gap = i > 0 && now - readings[i - 1].at > 5000;
  CHARTS.forEach((chart, k) => {
    charts[k] ??= new Chart($('charts'), spec(chart), zoom);
    charts[k].card.hidden = chart.shown ? !chart.shown() : false;
    if (gap) charts[k].gap(now - 1);
    charts[k].push(now, chart.values(i));
  });
}

// All of it anew, for another model.
function rebuild() {
  for (const chart of charts) chart.clear();
  readings.forEach((reading, i) => pushCharts(i));
  tiles();
  draw();
}

function showModels() {
  const menu = $('model'), models = labelsOf('batch_limit', 'model');
  if (menu.options.length === models.length + 1) return;
  menu.replaceChildren();
  for (const model of ['', ...models]) add(menu, 'option', '', model || t('allModels')).value = model;
  menu.value = state.model;
}

function take(reading) {
  if (readings.length > 0 && reading.at - readings.at(-1).at < 500) return;
  readings.push(reading);
  if (readings.length > MOST_READINGS) readings.shift();
  state.begun ??= reading.at;
  showModels();
  pushCharts(readings.length - 1);
  tiles();
  draw();
}

function askForKey(wrong) {
  $('board').hidden = true;
  $('key-form').hidden = false;
  $('key-error').textContent = wrong ? t('keyWrong') : '';
  if (document.activeElement === document.body) $('key').focus();
}

let asking = false;  // a key is wanted: nothing is polled with a wrong one

async function poll() {
  if (state.paused || asking) return;
  try {
    const [metrics, ready] = await Promise.all([call('/metrics', state.key), fetch('/health/ready')]);
    setStatus(ready.ok ? 'ready' : 'loading');
    if (metrics.status === 401 || metrics.status === 403) {
      asking = true;
      askForKey(state.key !== '');
      return;
    }
    if (!metrics.ok) return;
    const text = await metrics.text();
    $('key-form').hidden = true;
    $('board').hidden = false;
    take(readingOf(text));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;  // how fetch says that nobody answers
    setStatus('away');
  }
}

// ---- Controls ----

function setRange(range) {
  state.range = range;
  state.window = null;
  for (const button of $('range').children) button.setAttribute('aria-pressed', button.dataset.text === range);
  draw();
}

for (const range of Object.keys(RANGES)) {
  const button = add($('range'), 'button');
  button.type = 'button';
  button.dataset.text = range;
  button.setAttribute('aria-pressed', range === state.range);
  button.addEventListener('click', () => setRange(range));
}
$('model').addEventListener('change', () => {
  state.model = $('model').value;
  rebuild();
});
$('pause').addEventListener('click', () => {
  state.paused = !state.paused;
  draw();
});
$('now').addEventListener('click', () => zoom(null, null));
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  state.key = $('key').value.trim();
  $('key').value = '';
  asking = false;
  poll();
});

function languageChanged() {
  $('model').replaceChildren();
  if (readings.length === 0) return;
  showModels();
  tiles();
  draw();
}

begin(WORDS, { languageChanged, themeChanged: draw });
watch(poll);
