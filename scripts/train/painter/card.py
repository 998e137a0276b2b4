#!/usr/bin/env python3
"""Collects both runs' figures into figures.json, and writes the model card's tables and curves."""

import argparse
import json
from pathlib import Path

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def entries(log):
    """The log's lines by step; a run that was resumed wrote some twice, and the later counts."""
    return {(e["step"], "validation" in e): e
            for e in map(json.loads, log.read_text().splitlines())}.values()


def thin(points, most=120):
    return points[::max(1, len(points) // most)]


def vqvae_curve(log):
    rows = list(entries(log))
    return {"training": thin([[e["step"], e["loss"]] for e in rows if "loss" in e]),
            "validation": [[e["step"], e["validation"]] for e in rows if "validation" in e]}


def transformer_curve(log):
    rows = list(entries(log))
    curve = {name: thin([[e["pictures"], e[name]] for e in rows if name in e])
             for name in ("codes", "text")}
    checks = [e for e in rows if "validation" in e]
    for name in ("train_codes", "valid_codes", "train_text", "valid_text"):
        curve[name] = [[e["pictures"], e["validation"][name]] for e in checks]
    return curve


def collect(args):
    figures = json.loads(args.evaluation.read_text())
    figures["curves"] = {"vqvae": vqvae_curve(args.vqvae_log), "transformer":
                         transformer_curve(args.log)}
    for name, log in (("vqvae", args.vqvae_log), ("transformer", args.log)):
        last = list(entries(log))[-1]
        figures[name] = {"steps": last["step"], "minutes": round(last["minutes"])}
        if "pictures" in last:
            figures[name]["pictures"] = last["pictures"]
    figures["machine"] = args.machine
    files = [p for p in args.out.rglob("*") if p.suffix in (".safetensors", ".model")]
    figures["mebibytes"] = round(sum(p.stat().st_size for p in files) / 2**20, 2)
    return figures


class Panel:
    """One chart of an SVG: lines and dots over a common horizontal axis."""

    WIDTH, HEIGHT = 640, 230

    def __init__(self, top, caption, series):
        self.top, self.caption, self.series = top, caption, series
        points = [p for _, _, found in series for p in found]
        self.most = max((x for x, _ in points), default=1)
        self.high = max((y for _, y in points), default=1)

    def place(self, x, y):
        return (50 + (self.WIDTH - 70) * x / self.most,
                self.top + 20 + (self.HEIGHT - 60) * (1 - y / self.high))

    def draw(self):
        parts = []
        for i in range(5):
            value = self.high * i / 4
            x, y = self.place(0, value)
            parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{self.WIDTH - 20}" y2="{y:.1f}" '
                         f'stroke="#dddddd"/><text x="8" y="{y:.1f}" dy="4">{value:.3g}</text>')
        for i, (name, colour, points) in enumerate(self.series):
            places = [self.place(x, y) for x, y in points]
            if "held out" in name:
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
                          for x, y in places]
            else:
                line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
                parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" '
                             'stroke-width="1.5"/>')
            parts.append(f'<text x="{self.WIDTH - 210}" y="{self.top + 34 + 16 * i}" '
                         f'fill="{colour}">{name}</text>')
        parts.append(f'<text x="50" y="{self.top + self.HEIGHT - 14}">{self.caption}</text>')
        return parts


def svg(curves):
    painter, pictures = curves["transformer"], curves["vqvae"]
    most = painter["codes"][-1][0]
    panels = [
        Panel(0, f"Transformer: nats a token over {most} pictures", [
            ("codes, training", "#1f5fa8", painter["codes"]),
            ("text, training", "#c07a1f", painter["text"]),
            ("codes, held out", "#12365f", painter["valid_codes"]),
            ("text, held out", "#7a4a0c", painter["valid_text"])]),
        Panel(Panel.HEIGHT, f"VQ-VAE: loss over {pictures['training'][-1][0]} steps", [
            ("training", "#1f5fa8", pictures["training"])]),
    ]
    height = Panel.HEIGHT * len(panels)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{Panel.WIDTH}" height="{height}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{Panel.WIDTH}" height="{height}" fill="#ffffff"/>']
    for panel in panels:
        parts += panel.draw()
    return "\n".join([*parts, "</svg>"]) + "\n"


def percent(share):
    return f"{100 * share:.1f}%"


def table(figures):
    """The card's figures in Markdown."""
    rows = [("captions", "one picture", f"best of {figures['candidates']}", "p of the difference",
             "cosine: one, best", "p of the difference"), ("---",) * 6]
    for split, name in (("training", "of training pictures"), ("held_out", "of held-out pictures")):
        found = figures[split]
        rows.append((name, percent(found["one"]), percent(found["reranked"]), found["hits_p"],
                     f"{found['cosine_one']:.3f}, {found['cosine_reranked']:.3f}",
                     found["cosine_p"]))
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    picture, painter = figures["vqvae"], figures["transformer"]
    rmse = figures["curves"]["vqvae"]["validation"][-1][1]
    lines += ["", f"{figures['captions']} captions of each kind; chance is 2%. The VQ-VAE was "
              f"trained for {picture['steps']} steps in {picture['minutes']} minutes and restores "
              f"held-out pictures to a root mean square error of {rmse:.1f} of 255; the "
              f"Transformer for {painter['steps']} steps on {painter['pictures']} pictures in "
              f"{painter['minutes']} minutes, on {figures['machine']}. "
              f"{figures['mebibytes']} MiB in all."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="the model's folder, with its README.md")
    add("--evaluation", type=Path, help="JSON of evaluate.py; without it, figures.json is kept")
    add("--vqvae-log", type=Path, help="log.jsonl of train_vqvae.py")
    add("--log", type=Path, help="log.jsonl of train.py")
    add("--machine", default="two shared CPU cores", help="what it was trained on, in words")
    args = parser.parse_args()
    path = args.out / "figures.json"
    if args.evaluation:
        path.write_text(json.dumps(collect(args), separators=(",", ":")) + "\n")
    figures = json.loads(path.read_text())
    (args.out / "loss.svg").write_text(svg(figures["curves"]), encoding="utf-8")
    readme = args.out / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    readme.write_text(f"{head}{BEGIN}\n{table(figures)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
