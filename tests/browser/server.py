"""A `qianyi serve` of our own on ports that the system picks."""

import re
import subprocess
import tempfile


class Server:
  """with Server(program, model) as server: ... server.url"""

  def __init__(self, program, model, *flags):
    self.errors = tempfile.TemporaryFile(mode='w+')
    self.process = subprocess.Popen(
        [program, 'serve', '--model', model, '--http-port', '0', '--grpc-port', '0', *flags],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True)
    line = self.process.stdout.readline()
    found = re.match(r'listening on (http://\S+) ', line)
    if not found:
      self.stop()
      self.errors.seek(0)
      raise SystemExit(f'{program} serve does not listen: {line}{self.errors.read()}')
    self.url = found.group(1)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.stop()

  def stop(self):
    self.process.terminate()
    try:
      self.process.wait(timeout=20)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
    self.process.stdout.close()
