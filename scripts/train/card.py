#!/usr/bin/env python3
"""Collects a run's figures into figures.json, and writes the model card's table and loss curve."""

import argparse
import json
from pathlib import Path

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def curve(log, before):
    """[tokens, loss] of the training log, at most about 150 points, and the held-out losses.

    `before` has the curve and the counts of the model that training began with, or nothing.
    """
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    # A run that was resumed wrote some steps twice; the later line counts.
    losses = {e["tokens"]: e["loss"] for e in entries if "loss" in e}
    checks = {e["tokens"]: e["validation"] for e in entries if "validation" in e}
    base = before["training"]["tokens"] if before else 0
    shifted = {name: [[base + tokens, value] for tokens, value in sorted(found.items())]
               for name, found in (("training", losses), ("validation", checks))}
    if before:
        shifted = {name: before["curve"][name] + found for name, found in shifted.items()}
    stride = max(1, len(shifted["training"]) // 150)
    shifted["training"] = shifted["training"][::stride]
    return shifted


def collect(args):
    figures = json.loads(args.evaluation.read_text())
    figures["trigram"] = json.loads(args.trigram.read_text())
    before = json.loads(args.began_with.read_text()) if args.began_with else None
    past = before["training"] if before else {"steps": 0, "tokens": 0, "minutes": 0}
    last = json.loads(args.log.read_text().splitlines()[-1])
    figures["training"] = {"steps": past["steps"] + last["step"],
                           "tokens": past["tokens"] + last["tokens"],
                           "minutes": past["minutes"] + round(last["minutes"]),
                           "machine": args.machine}
    files = [p for p in args.out.iterdir() if p.suffix in (".safetensors", ".model")]
    figures["mebibytes"] = round(sum(p.stat().st_size for p in files) / 2**20, 2)
    figures["curve"] = curve(args.log, before)
    return figures


def svg(series, width=640, height=300):
    """Loss over tokens: training as a line, held-out answers as dots."""
    points = series["training"]
    most = points[-1][0]
    low, high = 3.0, 8.0

    def place(tokens, loss):
        x = 50 + (width - 70) * tokens / most
        y = 20 + (height - 60) * (high - max(low, min(high, loss))) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             f'font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    for loss in range(int(low), int(high) + 1):
        x, y = place(0, loss).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{width - 20}" y2="{y}" stroke="#dddddd"/>'
                     f'<text x="20" y="{y}" dy="4">{loss}</text>')
    line = " ".join(place(tokens, loss) for tokens, loss in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>')
    colours = {"poem": "#c0392b", "couplet": "#27864a", "summary": "#8e5bb0"}
    for i, (task, colour) in enumerate(colours.items()):
        for tokens, losses in series["validation"]:
            x, y = place(tokens, losses[task]).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
        parts.append(f'<text x="{width - 190}" y="{36 + 16 * i}" fill="{colour}">'
                     f'● held-out {task}</text>')
    parts.append(f'<text x="{width - 190}" y="84" fill="#1f5fa8">— training, all tasks</text>')
    parts.append(f'<text x="50" y="{height - 12}">nats per token over {most / 1e6:.1f} million '
                 'tokens</text></svg>')
    return "\n".join(parts) + "\n"


def table(figures):
    """The card's table in Markdown."""
    trigram = figures["trigram"]
    rows = [("held out", "figure", "trigram", "characters shuffled")]
    names = {"poem": "regulated poems, given form, title and author",
             "couplet": "lower lines, given the upper", "summary": "titles, given the poem",
             "new_series": "the same, titles of series that training has not seen"}
    for task, name in names.items():
        mixed = figures.get(f"{task}_shuffled_perplexity", "")
        rows.append((name, figures[f"{task}_perplexity"], trigram[task], mixed))
    rows.append(("blanks of one to three characters in a poem", figures["blank_perplexity"], "", ""))
    shares = {"dynasty": "a poet's dynasty right, phrasings not in training",
              "dynasty_10_poems": "the same, poets of ten poems or more",
              "unknown": "invented names said to be unknown"}
    rows += [(name, f"{100 * figures[key]:.1f}%", "", "") for key, name in shares.items()]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    lines.insert(1, "| --- | --- | --- | --- |")
    training = figures["training"]
    rows = figures["rows"]
    lines += ["", f"Perplexities are per character, of {rows['poem']} poems, {rows['couplet']} "
              f"couplets and {rows['summary']} titles; {rows['qa']} questions. "
              f"Trained for {training['steps']} steps on {training['tokens'] / 1e6:.1f} million "
              f"tokens in {training['minutes']} minutes on {training['machine']}; {figures['mebibytes']} MiB in int8."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="the model's folder, with its README.md")
    add("--evaluation", type=Path, help="JSON of evaluate.py; without it, figures.json is kept")
    add("--trigram", type=Path, help="JSON of baseline_trigram.py")
    add("--log", type=Path, help="log.jsonl of train.py")
    add("--began-with", type=Path,
        help="figures.json of the model that train.py was told to --start-from")
    add("--machine", default="two shared CPU cores", help="what it was trained on, in words")
    args = parser.parse_args()
    path = args.out / "figures.json"
    if args.evaluation:
        path.write_text(json.dumps(collect(args), separators=(",", ":")) + "\n")
    figures = json.loads(path.read_text())
    (args.out / "loss.svg").write_text(svg(figures["curve"]), encoding="utf-8")
    readme = args.out / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    readme.write_text(f"{head}{BEGIN}\n{table(figures)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
