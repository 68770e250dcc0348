"""Draws docs/guide/depth.svg from the lines of the study `trainability`: python3 docs/evidence/depth.py"""

import collections
import json
import math
import pathlib
import statistics

HERE = pathlib.Path(__file__).parent
DEPTHS = [3, 10, 30, 64, 100]
NORMAL = [{"normal": scale} for scale in (0.3, 0.5, 1.0, 2.0, 4.0)]
WIDTH, HEIGHT, ACROSS, DOWN, TOP = 860, 470, 330, 260, 84
BLUE, ORANGE = "#0072b2", "#e69f00"

runs = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(HERE / "trainability.jsonl"):
    run = json.loads(line)
    task = run["task"]
    cell = task["unit"], json.dumps(task["start"]), task["depth"]
    runs[cell][json.dumps(task["method"])].append((run["outcome"]["test"], run["outcome"]["before"] or 0))


def means(unit, start, depth, name):
    methods = runs[unit, json.dumps(start), depth].items()
    return [[statistics.mean(kind) for kind in zip(*tests)] for method, tests in methods if name in method]


def backprop(unit, start, depth):
    """The best of four learning rates."""
    return max(test for test, _ in means(unit, start, depth, "backprop"))


def recipe(unit, start, depth):
    return means(unit, start, depth, "closed-form")[0][0]


def unfinished(unit, start, depth):
    return means(unit, start, depth, "closed-form")[0][1]


def height(accuracy):
    """Logarithmic in the error, from 100 % to 1 %."""
    return TOP + DOWN * math.log10(100 - accuracy) / 2


def points(xs, values):
    return " ".join(f"{x:.1f},{height(v):.1f}" for x, v in zip(xs, values))


def dashes(colour, pattern):
    return f'fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{pattern}"'


RECIPE = f'fill="{BLUE}" fill-opacity=".55" stroke="{BLUE}" stroke-width="1.5"'
BACKPROP = f'fill="{ORANGE}" fill-opacity=".35" stroke="{ORANGE}" stroke-width="1.5"'
UNFINISHED, ORTHOGONAL = dashes(BLUE, "2 3"), dashes("#000", "8 4")
svg = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
    "<title>Test accuracy against depth for backprop and the recipe</title>",
    f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    '<text x="54" y="22" font-size="15" fill="#222">Test accuracy on digits against depth; '
    "Gaussian weights at five scales</text>",
    '<text x="54" y="40" fill="#222">The recipe\u2019s last 15 of 66 passes are backprop.</text>',
]
for panel, unit in enumerate(["tanh", "sigmoid"]):
    left = 54 + panel * (ACROSS + 72)
    span = math.log(DEPTHS[-1] / DEPTHS[0])
    xs = [left + ACROSS * math.log(depth / DEPTHS[0]) / span for depth in DEPTHS]
    svg.append(f'<text x="{left}" y="{TOP - 14}" font-size="14" fill="#222">{unit} units</text>')
    for tick in (0, 50, 80, 90, 95, 98, 99):
        y = height(tick)
        svg.append(f'<line x1="{left}" x2="{left + ACROSS}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        svg.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#333">{tick} %</text>')
    for x, depth in zip(xs, DEPTHS):
        svg.append(f'<text x="{x:.1f}" y="{TOP + DOWN + 20}" text-anchor="middle" fill="#333">{depth}</text>')
    svg.append(
        f'<text x="{left + ACROSS / 2}" y="{TOP + DOWN + 38}" text-anchor="middle" fill="#333">layers</text>'
    )
    for method, style in ((backprop, BACKPROP), (recipe, RECIPE)):
        cells = [[method(unit, start, depth) for start in NORMAL] for depth in DEPTHS]
        outline = points(xs, map(max, cells)) + " " + points(xs[::-1], map(min, cells[::-1]))
        svg.append(f'<polygon points="{outline}" {style}/>')
    worst = [min(unfinished(unit, start, depth) for start in NORMAL) for depth in DEPTHS]
    svg.append(f'<polyline points="{points(xs, worst)}" {UNFINISHED}/>')
    best = [backprop(unit, "orthogonal", depth) for depth in DEPTHS]
    svg.append(f'<polyline points="{points(xs, best)}" {ORTHOGONAL}/>')

KEYS = [
    ("recipe, all 66 passes", RECIPE, "rect"),
    ("recipe without its last 15 passes (lowest of the five)", UNFINISHED, "path"),
    ("backprop, the same weights, best of four rates", BACKPROP, "rect"),
    ("backprop, orthogonal weights", ORTHOGONAL, "path"),
]
for number, (name, style, shape) in enumerate(KEYS):
    x, y = 54 + number // 2 * 402, TOP + DOWN + 66 + number % 2 * 22
    shape = f'<rect x="{x}" y="{y - 11}" width="34" height="12"' if shape == "rect" else f'<path d="M{x} {y - 5}h34"'
    svg.append(f"{shape} {style}/>")
    svg.append(f'<text x="{x + 42}" y="{y}" fill="#222">{name}</text>')
svg.append(
    f'<text x="54" y="{HEIGHT - 12}" font-size="12" fill="#333">Vertical scale: logarithm of the error, '
    "so that the differences above 95 % are visible.</text>"
)
svg.append("</svg>")
(HERE.parent / "guide" / "depth.svg").write_text("\n".join(svg) + "\n")
