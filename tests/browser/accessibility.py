"""What a page must have for those who do not see it, or not well, or use no mouse."""

from driven import expect

# Text on its background, by the formula of WCAG 2: 4.5, or 3 where it is large.
CONTRAST = """
    const parse = (color) => {
      const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
      return [r, g, b, a];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
    const light = (rgb) => rgb.map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
      if (!element) return [255, 255, 255];
      return over(parse(getComputedStyle(element).backgroundColor), ground(element.parentElement));
    };
    const bad = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const element = walk.currentNode.parentElement;
      if (!walk.currentNode.textContent.trim() || !element.checkVisibility({ opacityProperty: true })) continue;
      if (element.closest(':disabled, [aria-hidden=true], script, style, option')) continue;
      const style = getComputedStyle(element), below = ground(element);
      const [a, b] = [light(over(parse(style.color), below)), light(below)].sort((x, y) => y - x);
      const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 600;
      const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
      const contrast = (a + 0.05) / (b + 0.05);
      if (contrast < least) bad.push(`${walk.currentNode.textContent.trim()}: ${contrast.toFixed(2)}`);
    }
    return bad;"""

STRUCTURE = """
    const bad = [], seen = new Set();
    for (const e of document.querySelectorAll('[id]')) {
      if (seen.has(e.id)) bad.push(`two of #${e.id}`);
      seen.add(e.id);
    }
    for (const name of ['aria-controls', 'aria-labelledby', 'aria-describedby', 'for']) {
      for (const e of document.querySelectorAll(`[${name}]`)) {
        for (const id of e.getAttribute(name).split(' ')) {
          if (!document.getElementById(id)) bad.push(`${name} names ${id}, which is not there`);
        }
      }
    }
    if (document.querySelectorAll('h1').length !== 1) bad.push('not one h1');
    if (document.querySelectorAll('main').length !== 1) bad.push('not one main');
    if (!document.documentElement.lang || !document.title) bad.push('no language or title');
    for (const e of document.querySelectorAll('[tabindex]')) {
      if (e.tabIndex > 0) bad.push(`an order of its own: ${e.outerHTML}`);
    }
    for (const e of document.querySelectorAll('th')) if (!e.scope) bad.push('a head of a table without scope');
    return bad;"""


def check_accessibility(browser, where):
  expect(browser.script(CONTRAST) == [], f'{where}: too faint: {browser.script(CONTRAST)}')
  expect(browser.script(STRUCTURE) == [], f'{where}: {browser.script(STRUCTURE)}')
  # As the browser tells it to a screen reader.
  browser.devtools('Accessibility.enable')
  nameless = []
  for node in browser.devtools('Accessibility.getFullAXTree')['nodes']:
    focusable = any(one['name'] == 'focusable' and one['value'].get('value')
                    for one in node.get('properties', []))
    named = node.get('name', {}).get('value', '').strip()
    if focusable and not node['ignored'] and not named and node['role']['value'] != 'RootWebArea':
      nameless.append(node['role']['value'])
  browser.devtools('Accessibility.disable')
  expect(nameless == [], f'{where}: without a name for a screen reader: {nameless}')


def check_focus(browser):
  """What has the focus shows it."""
  outline = browser.script("""
      const style = getComputedStyle(document.activeElement);
      return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;""")
  expect(outline, f"no outline: {browser.script('return document.activeElement.outerHTML')}")
