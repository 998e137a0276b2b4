// Streams of server-sent events, and what is in them.

import { t } from './common.js';

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

// Asks by `call`, and gives every event to `take`. Throws an Error with a sentence for people.
export async function ask(call, path, body, signal, take) {
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
export function deltaOf(event) {
  const choice = event.choices?.[0];
  return event.delta ?? choice?.delta?.content ?? choice?.blank?.text ?? choice?.text ?? '';
}
