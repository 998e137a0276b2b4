"""The playground, driven as a person would."""

import shutil
import time

SKIP = 77


def expect(true, what):
  if not true:
    raise SystemExit(f'tests/browser: {what}')


def needs_browser():
  """Whether there is one; says so where there is none."""
  for tool in ('chromium', 'chromedriver'):
    if shutil.which(tool) is None:
      print(f'******** SKIPPED: no {tool} here; scripts/setup test installs it ********')
      return False
  return True


class Page:
  def __init__(self, browser, relay):
    self.browser, self.relay = browser, relay

  def ask(self, tab, field, text):
    """Fills a field, sends, and waits for the end."""
    self.browser.click(f'#tab-{tab}')
    self.browser.fill(f'#panel-{tab} [name={field}]', text)
    self.browser.click('#go')
    self.done(tab)

  def ask_slowly(self, tab, field, text, output, looks):
    """The same, one event from the server at a time until the output was seen to grow `looks`
    times. Nothing of the rest has reached the browser by then."""
    length = lambda: len(self.browser.script(
        "return document.querySelector(arguments[0])?.textContent ?? ''", output))
    self.relay.hold()
    self.browser.click(f'#tab-{tab}')
    self.browser.fill(f'#panel-{tab} [name={field}]', text)
    self.browser.click('#go')
    seen = []
    while len(seen) < looks:
      before, end = length(), time.monotonic() + 2
      self.relay.let_pass()  # one without text may come first
      while length() == before and time.monotonic() < end:
        time.sleep(0.01)
      if length() > before:
        seen.append(length())
      elif seen or self.idle():
        break
    expect(len(seen) == looks and not self.idle(), f'{tab} does not stream in: {seen}')
    self.relay.release()
    self.done(tab)
    expect(length() > seen[-1], f'{tab}: no more than {seen} came')

  def idle(self):
    return self.browser.script("return !document.getElementById('go').disabled")

  def done(self, what):
    self.browser.wait(what, self.idle, seconds=120)
    error = self.browser.text('#error')
    expect(error == '', f'{what}: {error}')

  def quiet(self):
    """No word of complaint on the console, so far."""
    complaints = [entry['message'] for entry in self.browser.console()
                  if entry['level'] in ('SEVERE', 'WARNING')]
    expect(complaints == [], f'the console says {complaints}')
