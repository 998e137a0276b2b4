"""Reads the Dockerfile: as much of the language as ours uses, and nothing else."""

import fnmatch
import json
import os
import re
import shlex

KNOWN = {'FROM', 'ARG', 'ENV', 'WORKDIR', 'COPY', 'RUN', 'USER', 'EXPOSE', 'HEALTHCHECK',
         'ENTRYPOINT', 'CMD'}


class DockerfileError(Exception):
  pass


class Stage:
  def __init__(self, image, name):
    self.image = image
    self.name = name
    self.steps = []  # (instruction, text), in order

  def last(self, instruction):
    texts = [text for word, text in self.steps if word == instruction]
    return texts[-1] if texts else None

  def command(self, instruction):
    """The words of an ENTRYPOINT or CMD, which must be a JSON list."""
    text = self.last(instruction)
    if text is None:
      return []
    if not text.startswith('['):
      raise DockerfileError(f'{instruction} must be a JSON list, so that signals arrive: {text}')
    return json.loads(text)

  def health_check(self):
    return json.loads(self.last('HEALTHCHECK').split('CMD', 1)[1])

  def packages(self):
    """What `apt-get install` names in this stage."""
    names = []
    for word, text in self.steps:
      for command in re.split(r'&&|;', text) if word == 'RUN' else []:
        words = shlex.split(command)
        if words[:1] == ['apt-get'] and 'install' in words:
          names += [w for w in words[words.index('install') + 1:] if not w.startswith('-')]
    return names


def read(path):
  """The stages of a Dockerfile."""
  with open(path, encoding='utf-8') as file:
    text = ''.join(line for line in file if not line.lstrip().startswith('#'))
  stages = []
  for line in text.replace('\\\n', ' ').splitlines():
    if not line.strip():
      continue
    word, rest = (line.strip().split(None, 1) + [''])[:2]
    if word not in KNOWN:
      raise DockerfileError(f'{word}: not an instruction this reader knows')
    if word == 'FROM':
      words = rest.split()
      stages.append(Stage(words[0], words[2] if len(words) == 3 else None))
    elif not stages:
      raise DockerfileError(f'{word} before FROM')
    else:
      stages[-1].steps.append((word, rest.strip()))
  return stages


def copy_words(text):
  """(the stage or None, sources, destination) of a COPY."""
  words = shlex.split(text)
  stage = None
  while words and words[0].startswith('--'):
    key, _, value = words.pop(0).partition('=')
    if key != '--from':
      raise DockerfileError(f'COPY {key}: not an option this reader knows')
    stage = value
  return stage, words[:-1], words[-1]


def context(root):
  """A function that says whether .dockerignore lets a file of the context through."""
  rules = []
  with open(os.path.join(root, '.dockerignore'), encoding='utf-8') as file:
    for line in file:
      pattern = line.strip()
      if pattern and not pattern.startswith('#'):
        rules.append((pattern.lstrip('!').strip('/'), pattern.startswith('!')))

  def let_through(path):
    allowed = True
    parts = path.split('/')
    for pattern, allow in rules:
      depth = pattern.count('/') + 1
      # A pattern without a slash names things at the top, and all that is in them.
      if len(parts) >= depth and fnmatch.fnmatchcase('/'.join(parts[:depth]), pattern):
        allowed = allow
    return allowed
  return let_through
