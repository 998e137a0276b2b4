// What was done on the page, as a shell's and as a Python's way of doing the same.

// A value as Python writes it.
function literal(value) {
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (value === null) return 'None';
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`;
  if (typeof value === 'object') {
    return `{${Object.entries(value).map(([key, one]) => `${literal(key)}: ${literal(one)}`).join(', ')}}`;
  }
  return JSON.stringify(value);
}

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const SAVE = 'import base64, json, sys; '
  + '[open(f"picture-{i}.png", "wb").write(base64.b64decode(one["b64_json"])) '
  + 'for i, one in enumerate(json.load(sys.stdin)["data"], 1)]';

// Pictures are asked for as a whole there: who wants them row by row finds it in the documents.
function whole(body) {
  const { stream, partial_images, ...rest } = body;
  return rest;
}

export function curl(origin, path, body, withKey) {
  const paints = path.startsWith('/v1/images/');
  const lines = [`curl ${paints ? '' : '-N '}${origin}${path}`];
  if (withKey) lines.push('  -H "Authorization: Bearer $QIANYI_KEY"');
  lines.push("  -H 'Content-Type: application/json'",
    `  -d ${shellQuoted(JSON.stringify(paints ? whole(body) : body))}`);
  return lines.join(' \\\n') + (paints ? ` |\n  python3 -c ${shellQuoted(SAVE)}` : '');
}

// Arguments of a call, a line each; what the client's function does not have goes into extra_body.
function call(name, body, known) {
  const lines = [], extra = {};
  for (const [key, value] of Object.entries(body)) {
    if (known.includes(key)) lines.push(`    ${key}=${literal(value)},`);
    else extra[key] = value;
  }
  if (Object.keys(extra).length > 0) lines.push(`    extra_body=${literal(extra)},`);
  return `${name}(\n${lines.join('\n')}\n)\n`;
}

const TEXT_ARGUMENTS = ['model', 'messages', 'prompt', 'temperature', 'top_p', 'max_tokens', 'seed', 'stream'];
const PICTURE_ARGUMENTS = ['model', 'prompt', 'n'];

function withOpenAi(origin, path, body, withKey) {
  const key = withKey ? 'os.environ["QIANYI_KEY"]' : '"none"';
  const imports = (...names) => names.map((name) => `import ${name}\n`).join('') + (names.length > 0 ? '\n' : '');
  const client = `from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1", api_key=${key})\n`;
  const os = withKey ? ['os'] : [];
  if (path.startsWith('/v1/images/')) {
    return imports('base64', ...os) + client + `pictures = ${call('client.images.generate', whole(body), PICTURE_ARGUMENTS)}`
      + 'for i, picture in enumerate(pictures.data, 1):\n'
      + '    with open(f"picture-{i}.png", "wb") as file:\n'
      + '        file.write(base64.b64decode(picture.b64_json))\n';
  }
  if (path === '/v1/completions') {  // what fills each blank stands beside the text of the first
    return imports(...os) + client + `answer = ${call('client.completions.create', whole(body), TEXT_ARGUMENTS)}`
      + 'print(answer.choices[0].model_extra["blanks"])\n';
  }
  return imports(...os) + client + `answer = ${call('client.chat.completions.create', body, TEXT_ARGUMENTS)}`
    + 'for chunk in answer:\n    if chunk.choices:\n'
    + '        print(chunk.choices[0].delta.content or "", end="", flush=True)\n';
}

function withRequests(origin, path, body, withKey) {
  const lines = Object.entries(whole(body)).map(([key, value]) => `        ${literal(key)}: ${literal(value)},`);
  return `${withKey ? 'import os\n\n' : ''}import requests\n\nanswer = requests.post(\n    "${origin}${path}",\n`
    + (withKey ? '    headers={"Authorization": "Bearer " + os.environ["QIANYI_KEY"]},\n' : '')
    + `    json={\n${lines.join('\n')}\n    },\n    timeout=600,\n)\n`
    + 'answer.raise_for_status()\nprint(answer.json()["text"])\n';
}

export function python(origin, path, body, withKey) {
  return (path.startsWith('/v1/tasks/') ? withRequests : withOpenAi)(origin, path, body, withKey);
}
