"""Stands between a browser and a server, and can hold back a stream of events."""

import socket
import threading


class Relay:
  """with Relay(url) as relay: ... relay.url. Thread-safe."""

  def __init__(self, url):
    host, port = url.removeprefix('http://').split(':')
    self.server = (host, int(port))
    self.listener = socket.create_server(('127.0.0.1', 0))
    self.url = f'http://127.0.0.1:{self.listener.getsockname()[1]}'
    self.changed = threading.Condition()
    self.allowed = None  # events that may still pass; None: all
    self.closed = False
    threading.Thread(target=self._accept, daemon=True).start()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.release()
    self.closed = True
    self.listener.close()

  def hold(self):
    """From now on no event passes unless `let_pass` says so."""
    with self.changed:
      self.allowed = 0

  def let_pass(self):
    """One more event may pass."""
    with self.changed:
      self.allowed += 1
      self.changed.notify_all()

  def release(self):
    with self.changed:
      self.allowed = None
      self.changed.notify_all()

  def _accept(self):
    while not self.closed:
      try:
        browser, _ = self.listener.accept()
      except OSError:
        return
      server = socket.create_connection(self.server)
      for way in ((self._copy, browser, server), (self._copy_events, server, browser)):
        threading.Thread(target=self._until_end, args=way, daemon=True).start()

  @staticmethod
  def _until_end(work, source, target):
    try:
      work(source, target)
    except OSError:
      pass  # one of them left
    for end in (source, target):
      try:
        end.shutdown(socket.SHUT_RDWR)
      except OSError:
        pass

  @staticmethod
  def _copy(source, target):
    while data := source.recv(1 << 16):
      target.sendall(data)

  def _copy_events(self, source, target):
    streaming = False
    while data := source.recv(1 << 16):
      streaming = streaming or b'text/event-stream' in data.lower()
      if not streaming:
        target.sendall(data)
        continue
      *events, rest = data.split(b'\n\n')
      for event in events:
        self._wait()
        target.sendall(event + b'\n\n')
      target.sendall(rest)
      streaming = not rest.endswith(b'0\r\n\r\n')

  def _wait(self):
    with self.changed:
      self.changed.wait_for(lambda: self.allowed is None or self.allowed > 0)
      if self.allowed is not None:
        self.allowed -= 1
