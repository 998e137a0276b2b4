"""A headless Chromium, driven by plain W3C WebDriver over HTTP."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

FLAGS = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync',
         '--hide-scrollbars']
ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # the key that the standard gives to elements
ENTER, ARROW_LEFT, ARROW_RIGHT, ESCAPE = '\ue007', '\ue012', '\ue014', '\ue00c'
TAB, SHIFT, HOME = '\ue004', '\ue008', '\ue011'


class WebDriverError(Exception):
  pass


def post(url, body):
  """Asks a server of this machine, which no proxy stands before; the status."""
  request = urllib.request.Request(url, json.dumps(body).encode(), {'Content-Type': 'application/json'})
  try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
      answer.read()
      return answer.status
  except urllib.error.HTTPError as error:
    return error.code


def start_driver(attempts=3):
  """(process, its port or None). On a busy machine the port that it has picked may be gone again: then once more."""
  for attempt in range(attempts):
    driver = subprocess.Popen(['chromedriver', '--port=0', '--log-level=SEVERE'],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in driver.stdout:
      found = re.search(r'started successfully on port (\d+)', line)
      if found:
        return driver, found.group(1)
    if attempt + 1 < attempts:
      driver.wait()
  return driver, None


class Browser:
  """with Browser() as browser: ...; one window, its own empty profile."""

  def __init__(self, language='zh-CN', size=(1280, 900)):
    self.profile = tempfile.mkdtemp(prefix='qianyi-browser-')
    self.driver, port = start_driver()
    self.session = None
    try:
      if port is None:
        raise WebDriverError('chromedriver did not start')
      self.base = f'http://127.0.0.1:{port}'
      arguments = FLAGS + [f'--user-data-dir={self.profile}', f'--window-size={size[0]},{size[1]}',
                           f'--accept-lang={language}', f'--lang={language}']
      answer = self.call('POST', '/session', {'capabilities': {'alwaysMatch': {
          'browserName': 'chrome', 'goog:chromeOptions': {'args': arguments},
          'goog:loggingPrefs': {'browser': 'ALL'}}}})
      self.session = answer['sessionId']
    except BaseException:
      self.close()
      raise

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    if self.session:
      try:
        self.call('DELETE', f'/session/{self.session}')
      except (WebDriverError, OSError):
        pass
    self.driver.terminate()
    self.driver.wait()
    self.driver.stdout.close()
    shutil.rmtree(self.profile, ignore_errors=True)

  def call(self, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(self.base + path, data, method=method,
                                     headers={'Content-Type': 'application/json'})
    # No proxy stands between us and this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
      with opener.open(request, timeout=120) as response:
        return json.load(response)['value']
    except urllib.error.HTTPError as error:
      value = json.loads(error.read())['value']
      raise WebDriverError(f"{value['error']}: {value['message'].splitlines()[0]}") from None

  def do(self, method, path, body=None):
    return self.call(method, f'/session/{self.session}{path}', body)

  def open(self, url):
    self.do('POST', '/url', {'url': url})

  def find(self, css):
    return self.do('POST', '/element', {'using': 'css selector', 'value': css})[ELEMENT]

  def click(self, css):
    self.do('POST', f'/element/{self.find(css)}/click', {})

  def keys(self, css, text):
    self.do('POST', f'/element/{self.find(css)}/value', {'text': text})

  def press(self, *keys):
    """On whatever has the focus, as a person does who has no mouse. A pair is held together."""
    actions = []
    for key in keys:
      held = key if isinstance(key, tuple) else (key,)
      actions += [{'type': 'keyDown', 'value': one} for one in held]
      actions += [{'type': 'keyUp', 'value': one} for one in reversed(held)]
    self.do('POST', '/actions', {'actions': [{'type': 'key', 'id': 'keys', 'actions': actions}]})

  def drag(self, css, begin, end):
    """Across an element, from one fraction of its width to another."""
    box = self.script("""
        const element = document.querySelector(arguments[0]);
        element.scrollIntoView({ block: 'center', behavior: 'instant' });
        const { left, top, width, height } = element.getBoundingClientRect();
        return { left, width, y: top + height / 2 };""", css)
    at = lambda fraction: {'type': 'pointerMove', 'duration': 50, 'x': round(box['left'] + fraction * box['width']),
                           'y': round(box['y'])}
    self.do('POST', '/actions', {'actions': [{'type': 'pointer', 'id': 'mouse', 'actions': [
        at(begin), {'type': 'pointerDown', 'button': 0}, at((begin + end) / 2), at(end),
        {'type': 'pointerUp', 'button': 0}]}]})

  def fill(self, css, text):
    self.do('POST', f'/element/{self.find(css)}/clear', {})
    self.keys(css, text)

  def text(self, css):
    """The text as it is in the document, shown or not."""
    return self.script('return document.querySelector(arguments[0]).textContent', css)

  def script(self, code, *arguments):
    return self.do('POST', '/execute/sync', {'script': code, 'args': list(arguments)})

  def wait(self, what, condition, seconds=60):
    """The first true value of condition()."""
    end = time.monotonic() + seconds
    while True:
      value = condition()
      if value:
        return value
      if time.monotonic() > end:
        raise WebDriverError(f'{what}: not within {seconds} s')
      time.sleep(0.05)

  def console(self):
    """What the console got since the last call: [{level, message}]."""
    return self.do('POST', '/se/log', {'type': 'browser'})

  def devtools(self, command, **parameters):
    return self.do('POST', '/goog/cdp/execute', {'cmd': command, 'params': parameters})

  def look(self, width, height, dark=False, scale=1):
    self.devtools('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=scale, mobile=False)
    self.devtools('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])

  def screenshot(self, path):
    with open(path, 'wb') as file:
      file.write(base64.b64decode(self.do('GET', '/screenshot')))
