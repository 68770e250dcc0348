"""Draws docs/guide/depth.svg from the lines of the study `trainability`: python3 docs/evidence/depth.py"""

import collections
import json
import math
import pathlib
import statistics

HERE = pathlib.Path(__file__).parent
DEPTHS = [3, 10, 30, 64, 100]
NORMAL = [{"normal": scale} for scale in (0.3, 0.5, 1.0, 2.0, 4.0)]
WIDTH, HEIGHT, ACROSS, DOWN, TOP = 860, 380, 330, 230, 62
BLUE, DARK_BLUE, ORANGE, DARK_ORANGE = "#1b6fb3", "#12507f", "#d95f02", "#b34f02"

runs = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(HERE / "trainability.jsonl"):
    run = json.loads(line)
    task = run["task"]
    cell = task["unit"], json.dumps(task["start"]), task["depth"]
    runs[cell][json.dumps(task["method"])].append(run["outcome"]["test"])


def means(unit, start, depth, name):
    methods = runs[unit, json.dumps(start), depth].items()
    return [statistics.mean(tests) for method, tests in methods if name in method]


def backprop(unit, start, depth):
    """The best of four learning rates."""
    return max(means(unit, start, depth, "backprop"))


def recipe(unit, start, depth):
    return means(unit, start, depth, "closed-form")[0]


def points(xs, values):
    return " ".join(f"{x:.1f},{TOP + DOWN * (1 - v / 100):.1f}" for x, v in zip(xs, values))


def band(swatch):
    return f'fill="{swatch[0]}" fill-opacity="{swatch[1]}" stroke="{swatch[2]}" stroke-width="1.5"'


RECIPE, BACKPROP = (BLUE, 0.75, DARK_BLUE), (ORANGE, 0.3, DARK_ORANGE)
DASHES = f'fill="none" stroke="{DARK_ORANGE}" stroke-width="1.5" stroke-dasharray="5 4"'
svg = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
    "<title>Test accuracy against depth for backprop and the decoupled recipe</title>",
    f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    '<text x="54" y="22" font-size="15" fill="#222">Test accuracy on digits by depth, '
    "from five scales of the initial weights</text>",
]
for panel, unit in enumerate(["tanh", "sigmoid"]):
    left = 54 + panel * (ACROSS + 72)
    span = math.log(DEPTHS[-1] / DEPTHS[0])
    xs = [left + ACROSS * math.log(depth / DEPTHS[0]) / span for depth in DEPTHS]
    svg.append(f'<text x="{left}" y="{TOP - 14}" font-size="14" fill="#222">{unit} units</text>')
    for tick in (0, 25, 50, 75, 100):
        y = TOP + DOWN * (1 - tick / 100)
        svg.append(f'<line x1="{left}" x2="{left + ACROSS}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        label = "100 %" if tick == 100 else tick
        svg.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{label}</text>')
    for x, depth in zip(xs, DEPTHS):
        svg.append(f'<text x="{x:.1f}" y="{TOP + DOWN + 20}" text-anchor="middle" fill="#555">{depth}</text>')
    svg.append(
        f'<text x="{left + ACROSS / 2}" y="{TOP + DOWN + 40}" text-anchor="middle" fill="#555">layers</text>'
    )
    for method, swatch in ((backprop, BACKPROP), (recipe, RECIPE)):
        cells = [[method(unit, start, depth) for start in NORMAL] for depth in DEPTHS]
        outline = points(xs, map(max, cells)) + " " + points(xs[::-1], map(min, cells[::-1]))
        svg.append(f'<polygon points="{outline}" {band(swatch)}/>')
    best = [backprop(unit, "orthogonal", depth) for depth in DEPTHS]
    svg.append(f'<polyline points="{points(xs, best)}" {DASHES}/>')

y = HEIGHT - 14
for x, name, swatch in ((54, "decoupled recipe", RECIPE), (230, "backprop, the same weights", BACKPROP)):
    svg.append(f'<rect x="{x}" y="{y - 11}" width="22" height="12" {band(swatch)}/>')
    svg.append(f'<text x="{x + 28}" y="{y}" fill="#222">{name}</text>')
svg.append(f'<path d="M 474 {y - 5} h 28" {DASHES}/>')
svg.append(f'<text x="508" y="{y}" fill="#222">backprop, orthogonal weights</text>')
svg.append("</svg>")
(HERE.parent / "guide" / "depth.svg").write_text("\n".join(svg) + "\n")
