// The playground: forms, answers as they stream, and what the server is doing. Text that came from a
// person or a model is only ever put in place as text.

import { $, add, begin, bytes, call as callWith, number, recall, remember, setStatus, t, watch } from './common.js';
import { ask, deltaOf } from './events.js';
import { by, readingOf, since, sum } from './metrics.js';
import { WORDS } from './playground-words.js';
import { curl, python } from './recipes.js';

const MOST_PARTIALS = 64;

// Where each tab asks.
const PATHS = { poem: '/v1/tasks/poem', couplet: '/v1/tasks/couplet', qa: '/v1/tasks/qa',
  summary: '/v1/tasks/summary', blanks: '/v1/completions', chat: '/v1/chat/completions',
  paint: '/v1/images/generations' };

const state = { tab: 'chat', model: 'poet', painter: null, running: null, talk: [], done: null };

// ---- Tabs ----

function languageChanged() {
  $('go').textContent = t('go')[state.tab];
  figures.clear();
  $('figures').replaceChildren();
  if (previous) showFigures(previous, previous);
  showRecipe();
}

const tabs = [...document.querySelectorAll('[role=tab]')];
const nameOf = (tab) => tab.id.slice('tab-'.length);
const panel = () => $('panel-' + state.tab);

function setTab(name) {
  state.tab = name;
  for (const tab of tabs) {
    const here = nameOf(tab) === name;
    tab.setAttribute('aria-selected', here);
    tab.tabIndex = here ? 0 : -1;
    $('panel-' + nameOf(tab)).hidden = !here;
    $('panel-' + nameOf(tab)).disabled = !here;
    $('out-' + nameOf(tab)).hidden = !here;
  }
  // A picture is as long as it is.
  $('sampling').querySelector('[name=max_tokens]').parentElement.hidden = name === 'paint';
  $('go').textContent = t('go')[name];
  say('', '');
  state.done = null;
  showRecipe();
}

for (const tab of tabs) {
  tab.addEventListener('click', () => setTab(nameOf(tab)));
  tab.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const shown = tabs.filter((one) => !one.hidden);
    const next = shown[(shown.indexOf(tab) + step + shown.length) % shown.length];
    setTab(nameOf(next));
    next.focus();
  });
}

// ---- Requests ----

// What the controls say, as fields of the API; empty ones are left to the server.
function fieldsOf(controls) {
  const fields = {};
  for (const e of controls) {
    if (!e.name) continue;
    if (e.type === 'checkbox') fields[e.name] = e.checked;
    else if (e.type === 'number') { if (e.value !== '') fields[e.name] = Number(e.value); }
    else if (e.value.trim() !== '') fields[e.name] = e.value.trim();
  }
  return fields;
}

function requestBody() {
  const fields = fieldsOf(panel().elements);
  const body = PATHS[state.tab].startsWith('/v1/tasks/') ? {} : { model: state.model };
  if (state.tab === 'chat') {
    body.messages = [...state.talk, { role: 'user', content: fields.message || '' }];
  } else {
    Object.assign(body, fields);
  }
  Object.assign(body, fieldsOf($('sampling').querySelectorAll('input')), { stream: true });
  if (state.tab === 'paint') {
    body.model = state.painter.id;
    body.partial_images = Math.floor(MOST_PARTIALS / Math.max(1, body.n ?? 1));  // rows that are shown
    delete body.max_tokens;
  }
  return body;
}

// What was done, with its seed, until something else is about to be.
function showRecipe() {
  const body = state.done ?? requestBody(), path = PATHS[state.tab];
  $('recipe-of').textContent = t(state.done ? 'wasSent' : 'wouldSend');
  $('curl').textContent = curl(location.origin, path, body, key !== '');
  $('python').textContent = python(location.origin, path, body, key !== '');
}
function formChanged() {
  state.done = null;
  showRecipe();
}

// With --keys: what this tab was told is its key.
let key = sessionStorage.getItem('key') || '';

const call = (path, options) => callWith(path, key, options);

// The person's key, asked for as often as it is wrong; giving none ends the asking.
async function callWithKey(path) {
  let response = await call(path);
  while (response.status === 401) {
    key = (prompt(t('keyNeeded')) || '').trim();
    sessionStorage.setItem('key', key);
    if (key === '') break;
    response = await call(path);
  }
  return response;
}

// ---- Answers ----

// A poem as lines: by clauses, or by sentences only.
function linesOf(text, sentences = false) {
  const parts = text.split(sentences ? /\n|(?<=[。？！])/u : /\n|(?<=[，。？！；：])/u);
  return parts.map((line) => line.trim()).filter((line) => line !== '');
}

function setLines(parent, lines) {
  while (parent.children.length > lines.length) parent.lastChild.remove();
  lines.forEach((line, i) => {
    const p = parent.children[i] || add(parent, 'p');
    if (p.textContent !== line) p.textContent = line;
  });
}

function seal(parent) {
  add(parent, 'span', 'seal', '千亿').setAttribute('aria-hidden', 'true');
}

// A picture's file on a canvas: it is drawn without an address, which the page's policy would ask
// about.
async function drawFile(canvas, base64, type) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const file = new Blob([bytes], { type });
  const bitmap = await createImageBitmap(file);
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext('2d').drawImage(bitmap, 0, 0);
  bitmap.close();
  return file;
}

// One function per tab: prepares the paper for a request and returns {text, end}: what to do with
// the text so far, and with the last event of a finished answer; or {take}: what with each event.
const PAPER = {
  poem(out, body) {
    const sheet = add(out, 'div', 'sheet poem');
    sheet.lang = 'zh-CN';
    sheet.classList.toggle('vertical', $('vertical').checked);
    // Lines of regulated verse have one length; those of tunes do not, and run on in columns.
    const tune = Boolean(body.form) && !/^[五七][绝律]$/u.test(body.form);
    sheet.classList.toggle('tune', tune);
    const head = add(sheet, 'h2', '', body.title || body.form);
    if (body.author) add(head, 'small', '', body.author);
    const lines = add(sheet, 'div', 'lines');
    return {
      text(text) {
        setLines(lines, linesOf(text, tune));
        sheet.scrollLeft = -sheet.scrollWidth;  // the newest column
      },
      end() {
        seal(sheet);
        sheet.scrollLeft = 0;
      },
    };
  },
  couplet(out, body) {
    const sheet = add(out, 'div', 'sheet scrolls');
    sheet.lang = 'zh-CN';
    add(sheet, 'p', 'scroll', body.upper);
    const lower = add(sheet, 'p', 'scroll');
    return { text: (text) => { lower.textContent = text; }, end() {} };
  },
  summary(out, body) {
    const sheet = add(out, 'div', 'sheet centred');
    const head = add(sheet, 'h2');
    setLines(add(sheet, 'div', 'lines'), linesOf(body.text));
    return { text: (text) => { head.textContent = text; }, end: () => seal(sheet) };
  },
  qa(out, body) {
    const sheet = add(out, 'div', 'sheet prose');
    add(sheet, 'h2', '', body.question);
    const answer = add(sheet, 'p');
    return { text: (text) => { answer.textContent = text; }, end: () => seal(sheet) };
  },
  blanks(out, body) {
    const sheet = add(out, 'div', 'sheet prose filled');
    const marks = [], written = [];
    body.prompt.split('[MASK]').forEach((piece, i) => {
      if (i > 0) marks.push(add(sheet, 'mark', '', '　　'));
      sheet.append(piece);
    });
    return {
      text(text, event) {
        const i = event.choices[0].blank?.index ?? 0;
        written[i] = (written[i] || '') + deltaOf(event);
        if (marks[i]) marks[i].textContent = written[i];
        else sheet.textContent = body.prompt + text;
      },
      end() {},
    };
  },
  chat(out, body) {
    const question = body.messages.at(-1);
    const talk = out.firstElementChild || add(out, 'div', 'sheet talk');
    add(talk, 'p', 'mine', question.content);
    const answer = add(talk, 'p', 'theirs');
    panel().elements.message.value = '';
    let said = '';
    return {
      text(text) {
        said = answer.textContent = text;
        answer.scrollIntoView({ block: 'nearest' });
      },
      end() { state.talk.push(question, { role: 'assistant', content: said }); },
      undo() {
        answer.previousSibling.remove();
        answer.remove();
        $('panel-chat').elements.message.value = question.content;
      },
    };
  },
};

PAPER.paint = (out, body) => {
  const sheet = add(out, 'div', 'sheet pictures');
  const frames = [];
  const frameOf = (i) => {
    if (!frames[i]) {
      const figure = add(sheet, 'figure');
      const canvas = add(figure, 'canvas');
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', [body.prompt, body.style].filter(Boolean).join('，'));
      frames[i] = { figure, canvas, caption: add(figure, 'figcaption') };
    }
    return frames[i];
  };
  let codes = 0, seed = 0;
  return {
    async take(event) {
      const { figure, canvas, caption } = frameOf(event.picture);
      const file = await drawFile(canvas, event.b64_json, `image/${event.output_format}`);
      if (event.type.endsWith('partial_image')) {
        const grid = state.painter.pictures.grid;
        caption.textContent = t('drawn')(event.done / grid, grid);
        return;
      }
      if (event.picture === 0) [codes, seed] = [event.usage.output_tokens, event.seed];
      caption.textContent = event.score === undefined ? '' : number(event.score, 1);
      const save = add(caption, 'a', '', t('save'));
      save.href = URL.createObjectURL(file);
      save.download = `${body.prompt.slice(0, 20)}-${event.seed}.${event.output_format}`;
      figure.classList.add('done');
    },
    note: () => t('painted')(codes, seed),
  };
};

function say(error, note) {
  $('error').textContent = error;
  $('note').textContent = note;
}

function setRunning(controller) {
  state.running = controller;
  $('go').disabled = Boolean(controller);
  $('stop').hidden = !controller;
  $('paper').setAttribute('aria-busy', Boolean(controller));
}

// A seed of the page's own where none is given, so that what was done can be done again.
const drawSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

async function write() {
  const body = requestBody();
  body.seed ??= drawSeed();
  const tab = state.tab, out = $('out-' + tab);
  const controller = new AbortController();
  state.done = null;
  state.done = null;
  setRunning(controller);
  say('', '');
  if (tab !== 'chat') out.replaceChildren();
  const paper = PAPER[tab](out, body);
  $('paper').scrollIntoView({ block: 'nearest' });
  out.classList.add('writing');
  let text = '', last = {};
  try {
    await ask(call, PATHS[tab], body, controller.signal, async (event) => {
      if (paper.take) {
        await paper.take(event);
        text = ' ';
        return;
      }
      const delta = deltaOf(event);
      text += delta;
      if (delta !== '') paper.text(text, event);
      last = { ...last, ...event };
    });
    if (last.text) paper.text(last.text, last);
    paper.end?.();
    const note = paper.note ? [paper.note()] : [];
    if (last.usage) note.push(t('used')(last.usage.total_tokens, last.seed));
    state.done = body;
    const reason = last.finish_reason ?? last.choices?.[0]?.finish_reason;
    say('', reason === 'length' ? [t('cut'), ...note].join(' ') : note.join(''));
  } catch (error) {
    if (controller.signal.aborted) say('', t('stopped'));
    else say(error.message, '');
    if (text === '') paper.undo ? paper.undo() : out.replaceChildren();
  } finally {
    out.classList.remove('writing');
    setRunning(null);
    showRecipe();
    poll();
  }
}

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (!state.running) write();
});
$('form').addEventListener('input', formChanged);
$('form').addEventListener('keydown', (event) => {
  // Enter sends from a text area, as it does from a line; not while an input method is composing.
  if (event.key !== 'Enter' || event.isComposing || event.target.tagName !== 'TEXTAREA') return;
  const send = event.ctrlKey || event.metaKey || (state.tab === 'chat' && !event.shiftKey);
  if (!send) return;
  event.preventDefault();
  $('form').requestSubmit();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') state.running?.abort();
});
$('stop').addEventListener('click', () => state.running?.abort());
$('mask').addEventListener('click', () => {
  const area = panel().elements.prompt;
  area.setRangeText('[MASK]', area.selectionStart, area.selectionEnd, 'end');
  area.focus();
  formChanged();
});
$('forget').addEventListener('click', () => {
  state.talk = [];
  $('out-chat').replaceChildren();
  formChanged();
});
$('vertical').addEventListener('change', () => {
  remember('vertical', $('vertical').checked);
  $('out-poem').firstElementChild?.classList.toggle('vertical', $('vertical').checked);
});
// ---- The same in code ----

let recipe = 'curl';  // which of the two is shown

function setRecipe(name) {
  recipe = name;
  for (const button of document.querySelectorAll('[data-recipe]')) {
    const here = button.dataset.recipe === name;
    button.setAttribute('aria-pressed', here);
    $(button.dataset.recipe).hidden = !here;
  }
}
for (const button of document.querySelectorAll('[data-recipe]')) {
  button.addEventListener('click', () => setRecipe(button.dataset.recipe));
}
$('copy').addEventListener('click', async () => {
  getSelection().selectAllChildren($(recipe));
  // Pages over plain HTTP have no clipboard but the old one.
  if (navigator.clipboard) await navigator.clipboard.writeText($(recipe).textContent);
  else document.execCommand('copy');
  $('copy').textContent = t('copied');
  setTimeout(() => { $('copy').textContent = t('copy'); }, 1500);
});

// ---- What the server is doing ----

const figures = new Map();  // name → its <dd>
const rates = [];           // tokens/s, one a second
let previous = null;        // the last reading
function figure(name, value) {
  if (!figures.has(name)) {
    const group = add($('figures'), 'div');
    add(group, 'dt', '', name);
    figures.set(name, add(group, 'dd'));
  }
  figures.get(name).textContent = value;
}

// Shows a reading and what changed since `before`, which is the same one at first.
function showFigures(now, before) {
  const seconds = (now.at - before.at) / 1000;
  const added = (name) => since(now, before, (reading) => sum(reading, name));
  const rate = seconds > 0 ? added('generated_tokens_total') / seconds : 0;
  $('rate').textContent = number(rate, rate < 10 ? 1 : 0);
  figure(t('running'), number(sum(now, 'requests_running')));
  figure(t('waiting'), number(sum(now, 'requests_waiting')));
  const steps = added('steps_total');
  figure(t('batch'), steps > 0 ? number(added('step_sequences_total') / steps, 1) : '–');
  const asked = sum(now, 'time_to_first_token_seconds_count');
  const first = sum(now, 'time_to_first_token_seconds_sum') / asked;
  figure(t('firstToken'), asked > 0 ? first < 1 ? `${number(first * 1000)} ms` : `${number(first, 1)} s` : '–');
  const memory = by(now, 'memory_bytes', 'kind');
  figure(t('memory'), `${bytes(memory.resident ?? 0)} / ${bytes(memory.budget ?? 0)}`);
  return rate;
}

function drawRates() {
  const top = Math.max(1, ...rates);
  const points = rates.map((rate, i) =>
    `${60 - rates.length + i + 1},${(19 - 18 * rate / top).toFixed(2)}`);
  $('spark').setAttribute('points', points.join(' '));
}

async function poll() {
  try {
    const [metrics, ready] = await Promise.all([call('/metrics'), fetch('/health/ready')]);
    setStatus(ready.ok ? 'ready' : 'loading');
    $('live').hidden = !metrics.ok;  // a key that may not look
    if (!metrics.ok) return;
    const now = readingOf(await metrics.text());
    if (previous && now.at - previous.at < 500) return;
    const rate = showFigures(now, previous ?? now);
    if (previous) rates.push(rate);
    if (rates.length > 60) rates.shift();
    previous = now;
    drawRates();
  } catch {
    setStatus('away');
  }
}
document.addEventListener('visibilitychange', () => { previous = document.hidden ? null : previous; });

// ---- Beginning ----

// A tab for pictures where a model paints, and none for text where no model writes.
function showTabs(writer, painter) {
  state.model = writer?.id ?? state.model;
  state.painter = painter ?? null;
  $('model').textContent = [writer, painter].filter(Boolean).map((model) => model.id).join(' · ');
  for (const tab of tabs) tab.hidden = nameOf(tab) === 'paint' ? !painter : !writer;
  const menu = $('panel-paint').elements.style;
  for (const style of painter?.pictures.styles || []) add(menu, 'option', '', style).value = style;
  if (painter && !writer) setTab('paint');
}

// What the server offers: its models, and the forms of poems.
async function learn() {
  const list = async (path) => (await (await callWithKey(path)).json()).data;
  try {
    const models = await list('/v1/models');
    showTabs(models.find((model) => !model.pictures),
      models.find((model) => model.pictures?.paints && model.pictures.sizes.length > 0));
    const poem = (await list('/v1/tasks')).find((task) => task.task === 'poem');
    const menu = $('panel-poem').elements.form;
    for (const form of poem?.forms || []) add(menu, 'option', '', form).value = form;
  } catch { /* the status line says so */ }
  showRecipe();
}

$('vertical').checked = recall('vertical') !== 'false';
begin(WORDS, { languageChanged });
setTab('chat');
setRecipe('curl');
learn();
watch(poll);
