// One chart of the dashboard: a card with a legend, lines over time, and the same as a table.
/* global Dygraph */

import { $, add, locale, number, t } from './common.js';

const MOST_ROWS = 3600;  // an hour
const TABLE_ROWS = 30;
const DASHES = [null, [6, 4], [2, 3], null, null, null];

// The library's own legend writes styles into the document, which the pages' policy forbids.
Dygraph.PLUGINS = Dygraph.PLUGINS.filter((plugin) => plugin !== Dygraph.Plugins.Legend);

const clock = (time) => new Date(time).toLocaleTimeString(locale(), { hour12: false });

export class Chart {
  // `spec`: {id, title(), labels: [], name(label), format(value)}. `zoomed(from, to)` is told what
  // a person chose to see.
  constructor(parent, spec, zoomed) {
    this.spec = spec;
    this.zoomed = zoomed;
    this.labels = [...spec.labels];
    this.rows = [];
    this.cursor = -1;  // the row that is read; -1: the last
    this.card = add(parent, 'section', 'card');
    this.card.id = `chart-${spec.id}`;
    const head = add(this.card, 'header');
    this.title = add(head, 'h2');
    this.title.id = `title-${spec.id}`;
    this.card.setAttribute('aria-labelledby', this.title.id);
    this.button = add(head, 'button', 'quiet asTable');
    this.button.type = 'button';
    this.button.setAttribute('aria-pressed', false);
    this.button.addEventListener('click', () => this.showTable(this.table.hidden));
    this.legend = add(this.card, 'ul', 'legend');
    this.plot = add(this.card, 'div', 'plot');
    this.plot.tabIndex = 0;
    this.plot.setAttribute('role', 'application');
    this.plot.setAttribute('aria-describedby', 'keys');
    this.plot.addEventListener('keydown', (event) => this.key(event));
    this.plot.addEventListener('blur', () => this.read(-1));
    this.canvas = add(this.plot, 'div');
    this.none = add(this.plot, 'p', 'none');
    this.table = add(this.card, 'div', 'scroll-table');
    this.table.tabIndex = 0;
    this.table.hidden = true;
  }

  // ---- What is in it ----

  // {label: value or null} at a time; labels that are new get a line of their own.
  push(time, values) {
    for (const label of Object.keys(values)) {
      if (this.labels.includes(label)) continue;
      this.labels.push(label);
      for (const row of this.rows) row.push(null);
    }
    this.rows.push([new Date(time), ...this.labels.map((label) => values[label] ?? null)]);
    if (this.rows.length > MOST_ROWS) this.rows.shift();
  }
  // Where nothing was looked at, no line is drawn.
  gap(time) {
    if (this.rows.length > 0) this.rows.push([new Date(time), ...this.labels.map(() => null)]);
  }
  clear() {
    this.rows = [];
    this.labels = [...this.spec.labels];
  }

  // ---- How it looks ----

  // Draws it anew, with the words and colours of now.
  draw([from, to]) {
    this.window = [from, to];
    if (this.card.hidden) return;
    const data = this.rows.length > 0 ? this.rows : [[new Date(to), ...this.labels.map(() => null)]];
    const { title, format } = this.spec;
    this.title.textContent = title();
    this.plot.setAttribute('aria-roledescription', t('chart'));
    this.plot.setAttribute('aria-label', this.summary());
    this.table.setAttribute('aria-label', title());
    this.button.textContent = t(this.table.hidden ? 'table' : 'chart');
    this.button.setAttribute('aria-label', t('asTable')(title()));
    this.none.textContent = this.isEmpty() ? t('nothing') : '';
    this.showLegend();
    if (!this.table.hidden) {
      this.fillTable();
      return;
    }
    const options = {
      file: data, labels: ['', ...this.labels], dateWindow: [from, to], ...this.colours(),
      valueRange: [0, this.top()],
      // Where the axes meet, the time stands.
      axes: { y: { axisLabelFormatter: (value) => (value === 0 ? '' : format(value)), axisLabelWidth: 58, pixelsPerLabel: 34 },
        x: { axisLabelFormatter: (time) => clock(time), axisLabelWidth: 62, pixelsPerLabel: 84 } },
    };
    if (this.graph && this.graph.numColumns() === this.labels.length + 1) {
      this.graph.updateOptions(options);
      return;
    }
    this.graph?.destroy();
    const { file, ...rest } = options;
    this.graph = new Dygraph(this.canvas, file, { ...rest, ...this.fixed() });
  }

  fixed() {
    return {
      legend: 'never', strokeWidth: 1.6, axisLabelFontSize: 11, highlightCircleSize: 3, rightGap: 8,
      xRangePad: 0, animatedZooms: false, labelsKMG2: Boolean(this.spec.binary),
      zoomCallback: (from, to) => {
        this.zoomed(from, to);
      },
      highlightCallback: (event, x, points, row) => this.read(row),
      unhighlightCallback: () => this.read(-1),
    };
  }

  // Canvases know no style sheets: the colours are those of the legend.
  colours() {
    const of = (name, property = 'color') => {
      const probe = add(this.card, 'i', name);
      const value = getComputedStyle(probe)[property];
      probe.remove();
      return value;
    };
    const line = of('s5');
    const series = {};
    this.labels.forEach((label, i) => { series[label] = { strokePattern: DASHES[i % DASHES.length] }; });
    return { colors: this.labels.map((label, i) => of(`s${i % 6}`)), series,
      axisLineColor: line, gridLineColor: line.replace('rgb(', 'rgba(').replace(')', ', .22)') };
  }

  visible() {
    const [from, to] = this.window;
    return this.rows.filter(([time]) => time >= from && time <= to);
  }
  isEmpty() {
    return !this.visible().some((row) => row.slice(1).some((value) => value !== null));
  }
  top() {
    const values = this.visible().flatMap((row) => row.slice(1)).filter((value) => value !== null);
    return Math.max(...values, this.spec.least ?? 1e-9) * 1.12;
  }

  show(label, value) {
    return value === null || value === undefined ? '–' : this.spec.format(value, label);
  }

  showLegend() {
    const row = this.rows.at(this.cursor), items = this.legend;
    items.replaceChildren();
    this.labels.forEach((label, i) => {
      const item = add(items, 'li');
      add(item, 'i', `s${i % 6}`).setAttribute('aria-hidden', 'true');
      item.append(`${this.spec.name(label)} `);
      add(item, 'b', '', row ? this.show(label, row[i + 1]) : '–');
    });
    if (this.cursor >= 0 && row) add(items, 'li', 'at', clock(row[0]));
  }

  // A sentence for those who do not see it.
  summary() {
    const parts = this.labels.map((label, i) => {
      const values = this.visible().map((row) => row[i + 1]).filter((value) => value !== null);
      if (values.length === 0) return `${this.spec.name(label)}: ${t('nothing')}`;
      const [least, most] = [Math.min(...values), Math.max(...values)].map((v) => this.show(label, v));
      return `${this.spec.name(label)}: ${t('now')} ${this.show(label, values.at(-1))}, ${t('from')(least, most)}`;
    });
    return `${this.spec.title()}. ${parts.join('; ')}`;
  }

  showTable(table) {
    this.table.hidden = !table;
    this.plot.hidden = table;
    this.button.setAttribute('aria-pressed', table);
    this.draw(this.window);
  }

  fillTable() {
    const rows = this.visible(), step = Math.max(1, Math.ceil(rows.length / TABLE_ROWS));
    const table = document.createElement('table');
    const head = add(add(table, 'thead'), 'tr');
    for (const name of [t('time'), ...this.labels.map((label) => this.spec.name(label))]) {
      add(head, 'th', '', name).scope = 'col';
    }
    const body = add(table, 'tbody');
    for (let i = rows.length - 1; i >= 0; i -= step) {
      const line = add(body, 'tr');
      add(line, 'td', '', clock(rows[i][0]));
      this.labels.forEach((label, at) => add(line, 'td', '', this.show(label, rows[i][at + 1])));
    }
    const { scrollTop } = this.table;
    this.table.replaceChildren(table);
    this.table.scrollTop = scrollTop;
  }

  // ---- Reading and moving by keyboard ----

  read(row) {
    this.cursor = row;
    this.showLegend();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [from, to] = this.window, width = to - from;
    const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const scale = { '+': .5, '=': .5, '-': 2, _: 2 }[event.key];
    if (side && event.shiftKey) this.zoomed(from + side * width / 4, to + side * width / 4);
    else if (side) this.step(side);
    else if (scale) this.zoomed(to - width * scale, to);
    else if (event.key === 'Escape') this.zoomed(null, null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  step(side) {
    const shown = this.visible();
    if (shown.length === 0) return;
    const first = this.rows.indexOf(shown[0]), last = first + shown.length - 1;
    const cursor = this.cursor < 0 ? (side < 0 ? last : first) : this.cursor + side;
    this.read(Math.min(last, Math.max(first, cursor)));
    this.graph?.setSelection(this.cursor);
    const row = this.rows[this.cursor];
    $('said').textContent = `${clock(row[0])}: ` + this.labels.map((label, i) =>
      `${this.spec.name(label)} ${this.show(label, row[i + 1])}`).join('; ');
  }
}

// Formats for values of one kind.
export function seconds(value) {
  if (value === 0) return '0';
  if (value < 0.001) return `${number(value * 1e6)} µs`;
  if (value < 1) return `${number(value * 1000, value < 0.01 ? 1 : 0)} ms`;
  return value < 120 ? `${number(value, value < 10 ? 1 : 0)} s` : `${number(value / 60, 1)} min`;
}
export const count = (value) => number(value, value < 10 ? 1 : 0);
export const percent = (value) => `${number(value * 100, value < 0.1 ? 1 : 0)} %`;
