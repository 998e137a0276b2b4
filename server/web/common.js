// What both pages have: words in two languages, the theme, the server's state, and how it is asked.

const WORDS = {
  zh: {
    name: '千亿', pages: '页面', playground: '试用', dashboard: '仪表盘',
    toLight: '浅色', toDark: '深色',
    ready: '就绪', loading: '尚未就绪', away: '服务器没有应答',
  },
  en: {
    name: 'Qianyi', pages: 'Pages', playground: 'Playground', dashboard: 'Dashboard',
    toLight: 'Light', toDark: 'Dark',
    ready: 'ready', loading: 'not ready yet', away: 'the server does not answer',
  },
};

export const $ = (id) => document.getElementById(id);

// A child element with a class and text. null as text leaves it empty.
export function add(parent, tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text != null) element.textContent = text;
  parent.append(element);
  return element;
}

// Settings that survive a reload where the browser lets them.
export function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* private windows refuse */ }
}
export function recall(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

// ---- Language ----

let words = WORDS;
let language = 'zh';
let onLanguage = () => {};

export const t = (key) => words[language][key];
export const locale = () => document.documentElement.lang;
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);

export function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; ++unit) value /= 1024;
  return `${number(value, value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

// Puts the words of the language in place below `root`.
export function translate(root = document) {
  for (const e of root.querySelectorAll('[data-text]')) e.textContent = t(e.dataset.text);
  for (const e of root.querySelectorAll('[data-hint]')) e.placeholder = t(e.dataset.hint);
  for (const e of root.querySelectorAll('[data-label]')) e.setAttribute('aria-label', t(e.dataset.label));
}

function setLanguage(to) {
  language = to;
  document.documentElement.lang = to === 'zh' ? 'zh-CN' : 'en';
  document.title = `${t('name')} · ${t(document.body.dataset.page)}`;
  translate();
  $('language').textContent = to === 'zh' ? 'English' : '中文';
  $('language').lang = to === 'zh' ? 'en' : 'zh-CN';
  showTheme();
  onLanguage();
  showStatus();
}

// ---- Theme: what the system prefers, until somebody says otherwise ----

const dark = matchMedia('(prefers-color-scheme: dark)');
let onTheme = () => {};

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : dark.matches;
}
function showTheme() {
  $('theme').textContent = t(isDark() ? 'toLight' : 'toDark');
}
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember('theme', theme);
  showTheme();
  onTheme();
}

// ---- The server ----

let status = 'loading';

function showStatus() {
  if ($('server').textContent !== t(status)) $('server').textContent = t(status);
  $('server').className = status;
}
export function setStatus(now) {
  status = now;
  showStatus();
}

// Asks with a key where there is one.
export function call(path, key, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  return fetch(path, { ...options, headers });
}

// Calls `poll` at once and then each second, while somebody is looking.
export function watch(poll) {
  let timer = 0;
  const look = () => {
    clearInterval(timer);
    if (document.hidden) return;
    poll();
    timer = setInterval(() => { if (!document.hidden) poll(); }, 1000);
  };
  document.addEventListener('visibilitychange', look);
  look();
}

// Begins a page with its own words beside the common ones. `languageChanged` and `themeChanged` draw
// anew what is not text of the document.
export function begin(pageWords, { languageChanged, themeChanged } = {}) {
  words = { zh: { ...WORDS.zh, ...pageWords.zh }, en: { ...WORDS.en, ...pageWords.en } };
  onLanguage = languageChanged ?? onLanguage;
  onTheme = themeChanged ?? onTheme;
  $('language').addEventListener('click', () => {
    setLanguage(language === 'zh' ? 'en' : 'zh');
    remember('language', language);
  });
  $('theme').addEventListener('click', () => setTheme(isDark() ? 'light' : 'dark'));
  dark.addEventListener('change', () => {
    showTheme();
    onTheme();
  });
  setLanguage(recall('language') || (navigator.language.startsWith('zh') ? 'zh' : 'en'));
}
