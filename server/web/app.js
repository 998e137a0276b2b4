'use strict';
// The page: forms, answers as they stream, and what the server is doing. Text that came from a
// person or a model is only ever put in place as text.

const TEXT = {
  zh: {
    name: '千亿', tasks: '体裁', poem: '作诗', couplet: '对联', summary: '拟题', qa: '问答',
    blanks: '填空', chat: '对话', paint: '绘画',
    title: '题目', titleHint: '春江花月夜', form: '体式', author: '拟作者', authorHint: '李白（可不填）',
    rhyme: '押韵', tones: '合平仄', vertical: '竖排',
    upper: '上联', upperHint: '春风得意马蹄疾',
    text: '原诗', textHint: '床前明月光，疑是地上霜。举头望明月，低头思故乡。',
    question: '问题', questionHint: '人为什么要读书？', persona: '以谁的口吻', personaHint: '一位老者（可不填）',
    prompt: '带空的文字', promptHint: '床前[MASK]，疑是地上霜。', insertBlank: '插入一空',
    message: '想说的话', messageHint: '你好', forget: '另起一谈',
    picture: '画什么', pictureHint: '一只猫', style: '风格', anyStyle: '不限', pictures: '张数', one: '1',
    candidates: '候选，取其优', save: '保存', drawn: (rows, all) => `${rows} / ${all} 行`,
    painted: (codes, seed) => `画了 ${codes} 个图像码，种子 ${seed}`,
    sampling: '采样', seed: '种子', temperature: '温度', topP: '累积概率 top-p', maxTokens: '最多 token',
    automatic: '自动', asCurl: '等价的 curl', copy: '复制', copied: '已复制',
    go: { poem: '落笔', couplet: '对出下联', summary: '拟题', qa: '请教', blanks: '填空', chat: '发送',
      paint: '作画' },
    stop: '停', stopped: '已停笔。', cut: '到长度上限为止。', answer: '答案',
    used: (tokens, seed) => `${tokens} 个 token` + (seed === undefined ? '' : `，种子 ${seed}`),
    live: '此刻', tokensPerSecond: 'token / 秒', running: '进行中', waiting: '等待', batch: '每步 token',
    firstToken: '首字', memory: '内存 / 预算', cache: '键值缓存',
    weights: { host: '权重在内存', disk: '权重在磁盘', device: '权重在显存' },
    links: { disk: '自磁盘', host_to_device: '至显存' }, link: '链路 ',
    ready: '就绪', loading: '尚未就绪', away: '服务器没有应答',
    broken: '连接中断，答案不完整。', unreachable: '连不上服务器。', keyNeeded: '此服务器需要密钥：',
    foot: '文字在这台服务器上写成，不经他处。',
  },
  en: {
    name: 'Qianyi', tasks: 'Tasks', poem: 'Poem', couplet: 'Couplet', summary: 'Title', qa: 'Q&A',
    blanks: 'Blanks', chat: 'Chat', paint: 'Painting',
    title: 'Title', titleHint: '春江花月夜', form: 'Form', author: 'In the manner of',
    authorHint: '李白 (optional)',
    rhyme: 'Rhyme', tones: 'Tonal pattern', vertical: 'Vertical',
    upper: 'First line', upperHint: '春风得意马蹄疾',
    text: 'Poem that wants a title', textHint: '床前明月光，疑是地上霜。举头望明月，低头思故乡。',
    question: 'Question', questionHint: '人为什么要读书？', persona: 'In the voice of',
    personaHint: '一位老者 (optional)',
    prompt: 'Text with blanks', promptHint: '床前[MASK]，疑是地上霜。', insertBlank: 'Insert a blank',
    message: 'Message', messageHint: '你好', forget: 'New conversation',
    picture: 'What to paint', pictureHint: '一只猫', style: 'Style', anyStyle: 'any', pictures: 'Pictures',
    one: '1', candidates: 'Candidates, best kept', save: 'Save',
    drawn: (rows, all) => `${rows} of ${all} rows`,
    painted: (codes, seed) => `${codes} codes drawn, seed ${seed}`,
    sampling: 'Sampling', seed: 'Seed', temperature: 'Temperature', topP: 'Top-p',
    maxTokens: 'Most tokens', automatic: 'automatic', asCurl: 'The same with curl', copy: 'Copy',
    copied: 'Copied', go: { poem: 'Write', couplet: 'Answer the line', summary: 'Find a title', qa: 'Ask',
      blanks: 'Fill', chat: 'Send', paint: 'Paint' },
    stop: 'Stop', stopped: 'Stopped.', cut: 'Ended at the length limit.', answer: 'Answer',
    used: (tokens, seed) => `${tokens} tokens` + (seed === undefined ? '' : `, seed ${seed}`),
    live: 'Now', tokensPerSecond: 'tokens / s', running: 'running', waiting: 'waiting',
    batch: 'tokens a step', firstToken: 'first token', memory: 'memory / budget', cache: 'KV cache',
    weights: { host: 'weights in memory', disk: 'weights on disk', device: 'weights on the GPU' },
    links: { disk: 'from disk', host_to_device: 'to the GPU' }, link: 'link ',
    ready: 'ready', loading: 'not ready yet', away: 'the server does not answer',
    broken: 'The connection broke; the answer is incomplete.',
    unreachable: 'The server cannot be reached.', keyNeeded: 'This server asks for a key:',
    foot: 'Written on this server; nothing is sent anywhere else.',
  },
};

const MOST_PARTIALS = 64;

// Where each tab asks.
const PATHS = { poem: '/v1/tasks/poem', couplet: '/v1/tasks/couplet', qa: '/v1/tasks/qa',
  summary: '/v1/tasks/summary', blanks: '/v1/completions', chat: '/v1/chat/completions',
  paint: '/v1/images/generations' };

const $ = (id) => document.getElementById(id);
const state = { language: 'zh', tab: 'poem', model: 'poet', painter: null, running: null, talk: [] };
const t = (key) => TEXT[state.language][key];

// A child element with a class and text. null as text leaves it empty.
function add(parent, tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text != null) element.textContent = text;
  parent.append(element);
  return element;
}

// Settings that survive a reload where the browser lets them.
function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* private windows refuse */ }
}
function recall(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

// ---- Language and tabs ----

function setLanguage(language) {
  state.language = language;
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  document.title = t('name');
  for (const e of document.querySelectorAll('[data-text]')) e.textContent = t(e.dataset.text);
  for (const e of document.querySelectorAll('[data-hint]')) e.placeholder = t(e.dataset.hint);
  for (const e of document.querySelectorAll('[data-label]')) {
    e.setAttribute('aria-label', t(e.dataset.label));
  }
  $('language').textContent = language === 'zh' ? 'English' : '中文';
  $('language').lang = language === 'zh' ? 'en' : 'zh-CN';
  $('go').textContent = t('go')[state.tab];
  figures.clear();
  $('figures').replaceChildren();
  if (previous) showFigures(previous, {});
  showStatus();
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
  showCurl();
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

function showCurl() {
  const json = JSON.stringify(requestBody()).replaceAll("'", "'\\''");
  $('curl').textContent = `curl -N ${location.origin}${PATHS[state.tab]} \\\n` +
    `  -H 'Content-Type: application/json' \\\n  -d '${json}'`;
}

// The JSON values of a stream of server-sent events, up to [DONE].
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error(t('broken'));
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data:')) continue;
      const data = line.slice('data:'.length).trim();
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
}

// With --keys: what this tab was told is its key.
let key = sessionStorage.getItem('key') || '';

function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key !== '') headers.Authorization = `Bearer ${key}`;
  return fetch(path, { ...options, headers });
}

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

// Asks, and gives every event to `take`. Throws an Error with a sentence for people.
async function ask(path, body, signal, take) {
  let response;
  try {
    response = await call(path, {
      method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body), signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error(t('unreachable'));
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.error?.message || `HTTP ${response.status}`);
  }
  try {
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      await take(event);
    }
  } catch (error) {
    if (error instanceof TypeError) throw new Error(t('broken'));  // how fetch says it
    throw error;
  }
}

// The piece of text that an event adds, whichever endpoint it is of.
function deltaOf(event) {
  const choice = event.choices?.[0];
  return event.delta ?? choice?.delta?.content ?? choice?.blank?.text ?? choice?.text ?? '';
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

async function write() {
  const tab = state.tab, body = requestBody(), out = $('out-' + tab);
  const controller = new AbortController();
  setRunning(controller);
  say('', '');
  if (tab !== 'chat') out.replaceChildren();
  const paper = PAPER[tab](out, body);
  $('paper').scrollIntoView({ block: 'nearest' });
  out.classList.add('writing');
  let text = '', last = {};
  try {
    await ask(PATHS[tab], body, controller.signal, async (event) => {
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
    const reason = last.finish_reason ?? last.choices?.[0]?.finish_reason;
    say('', reason === 'length' ? [t('cut'), ...note].join(' ') : note.join(''));
  } catch (error) {
    if (controller.signal.aborted) say('', t('stopped'));
    else say(error.message, '');
    if (text === '') paper.undo ? paper.undo() : out.replaceChildren();
  } finally {
    out.classList.remove('writing');
    setRunning(null);
    showCurl();
    poll();
  }
}

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (!state.running) write();
});
$('form').addEventListener('input', showCurl);
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
  showCurl();
});
$('forget').addEventListener('click', () => {
  state.talk = [];
  $('out-chat').replaceChildren();
  showCurl();
});
$('vertical').addEventListener('change', () => {
  remember('vertical', $('vertical').checked);
  $('out-poem').firstElementChild?.classList.toggle('vertical', $('vertical').checked);
});
$('language').addEventListener('click', () => {
  setLanguage(state.language === 'zh' ? 'en' : 'zh');
  remember('language', state.language);
});
$('copy').addEventListener('click', async () => {
  getSelection().selectAllChildren($('curl'));
  // Pages over plain HTTP have no clipboard but the old one.
  if (navigator.clipboard) await navigator.clipboard.writeText($('curl').textContent);
  else document.execCommand('copy');
  $('copy').textContent = t('copied');
  setTimeout(() => { $('copy').textContent = t('copy'); }, 1500);
});

// ---- What the server is doing ----

const figures = new Map();  // name → its <dd>
const rates = [];           // tokens/s, one a second
let previous = null;        // the last reading
let status = 'loading';

function showStatus() {
  $('server').textContent = t(status);
  $('server').className = status;
}

// A reading of Prometheus text: sums over models, by name or by one label.
function readingOf(text) {
  const reading = { at: performance.now() / 1000, weights: {}, links: {}, memory: {} };
  for (const [, name, labels, value] of text.matchAll(/^qianyi_(\w+)(?:\{(.*)\})? (\S+)/gm)) {
    const [group, label] = { weight_bytes: ['weights', 'tier'], link_bytes_total: ['links', 'link'],
      memory_bytes: ['memory', 'kind'] }[name] || [];
    const into = group ? reading[group] : reading;
    const key = group ? new RegExp(`${label}="([^"]*)"`).exec(labels)?.[1] : name;
    into[key] = (into[key] || 0) + Number(value);
  }
  return reading;
}

const number = (value, digits = 0) => new Intl.NumberFormat(document.documentElement.lang,
  { maximumFractionDigits: digits }).format(value);

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; ++unit) value /= 1024;
  return `${number(value, value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

function figure(name, value) {
  if (!figures.has(name)) {
    const group = add($('figures'), 'div');
    add(group, 'dt', '', name);
    figures.set(name, add(group, 'dd'));
  }
  figures.get(name).textContent = value;
}

// Shows a reading and what changed since `before` ({} when it is the first).
function showFigures(now, before) {
  const seconds = now.at - before.at;
  const since = (key) => Math.max(0, (now[key] - before[key]) || 0);
  const rate = seconds > 0 ? since('generated_tokens_total') / seconds : 0;
  $('rate').textContent = number(rate, rate < 10 ? 1 : 0);
  figure(t('running'), number(now.requests_running || 0));
  figure(t('waiting'), number(now.requests_waiting || 0));
  const steps = since('steps_total');
  const tokens = since('generated_tokens_total') + since('prompt_tokens_total');
  figure(t('batch'), steps > 0 ? number(tokens / steps, 1) : '–');
  const asked = now.time_to_first_token_seconds_count;
  const first = now.time_to_first_token_seconds_sum / asked;
  figure(t('firstToken'), asked > 0 ? first < 1 ? `${number(first * 1000)} ms` : `${number(first, 1)} s` : '–');
  figure(t('memory'), `${bytes(now.memory.resident || 0)} / ${bytes(now.memory.budget || 0)}`);
  figure(t('cache'), bytes(now.memory.kv_cache || 0));
  for (const tier in now.weights) figure(t('weights')[tier] || tier, bytes(now.weights[tier]));
  for (const link in now.links) {
    const moved = seconds > 0 ? Math.max(0, now.links[link] - (before.links?.[link] || 0)) : 0;
    figure(t('links')[link] || t('link') + link, `${bytes(seconds > 0 ? moved / seconds : 0)}/s`);
  }
  return rate;
}

function drawRates() {
  const top = Math.max(1, ...rates);
  const points = rates.map((rate, i) =>
    `${60 - rates.length + i + 1},${(19 - 18 * rate / top).toFixed(2)}`);
  $('spark').setAttribute('points', points.join(' '));
}

async function poll() {
  if (document.hidden) return;
  try {
    const [metrics, ready] = await Promise.all([call('/metrics'), fetch('/health/ready')]);
    status = ready.ok ? 'ready' : 'loading';
    if (!metrics.ok) return;  // a key that may not look
    const now = readingOf(await metrics.text());
    if (previous && now.at - previous.at < 0.5) return;
    const rate = showFigures(now, previous || {});
    if (previous) rates.push(rate);
    if (rates.length > 60) rates.shift();
    previous = now;
    drawRates();
  } catch {
    status = 'away';
  } finally {
    showStatus();
  }
}

// One poll a second while somebody is looking.
let timer = 0;
function watch() {
  clearInterval(timer);
  previous = document.hidden ? null : previous;
  if (document.hidden) return;
  poll();
  timer = setInterval(poll, 1000);
}
document.addEventListener('visibilitychange', watch);

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
  showCurl();
}

$('vertical').checked = recall('vertical') !== 'false';
setLanguage(recall('language') || (navigator.language.startsWith('zh') ? 'zh' : 'en'));
setTab('poem');
learn();
watch();
