"""The nets, their data, and the numbers that every worker must find."""

import json
from pathlib import Path

import numpy as np

# Name: widths, examples.
NETS = {
    "S": ([64, 32, 32, 10], 100),
    "M": ([784, 512, 512, 512, 10], 128),
    "D": ([128] * 33, 128),
    "W": ([1024] * 9, 256),
    "depth 4": ([128] * 5, 128),
    "depth 128": ([128] * 129, 128),
    "M, n = 32": ([784, 512, 512, 512, 10], 32),
    "M, n = 1024": ([784, 512, 512, 512, 10], 1024),
}
# Small: deep nets must not diverge while they are timed.
RATE = 1e-3
TARGET_RATE = 0.05


def flops(net):
    """Operations of a step's products: forward, ∂E/∂W and, but for layer 0, ∂E/∂z."""
    widths, n = NETS[net]
    layers = enumerate(zip(widths, widths[1:]))
    return sum(2 * m * k * n * (3 if t > 0 else 2) for t, (k, m) in layers)


def write(net, folder):
    """Weights N(0, 1/fan-in), biases N(0, 0.1²), z N(0, 0.5²), inputs N(0, 1), targets N(0, 0.5²)."""
    widths, n = NETS[net]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(net.encode()))
    draw = lambda std, *shape: (std * rng.standard_normal(shape)).astype("<f4")
    for t, (k, m) in enumerate(zip(widths, widths[1:])):
        theta = [draw(k**-0.5, k, m).ravel(), draw(0.1, m)]
        np.concatenate(theta).tofile(folder / f"theta{t}.f32")
    for t, width in enumerate(widths[1:-1], 1):
        draw(0.5, n, width).tofile(folder / f"z{t}.f32")
    draw(1.0, n, widths[0]).tofile(folder / "x.f32")
    draw(0.5, n, widths[-1]).tofile(folder / "y.f32")
    description = {"widths": widths, "examples": n, "rate": RATE, "target_rate": TARGET_RATE}
    (folder / "net.json").write_text(json.dumps(description))


def reference(problem, kind, steps):
    """(value before the last update, weights, biases, z) in f64; `kind` is step or backprop."""
    if kind not in ("step", "backprop"):
        raise ValueError(f"there is no reference of {kind}")
    wide = lambda arrays: [a.astype(np.float64) for a in arrays]
    weights, biases, z = wide(problem.weights), wide(problem.biases), wide(problem.z)
    x, y = wide([problem.x, problem.y])
    depth, value = problem.depth, 0.0
    activate = lambda t, a: a if t + 1 == depth else np.tanh(a)
    slope = lambda t, prediction: 1.0 if t + 1 == depth else 1.0 - prediction**2
    for _ in range(steps):
        if kind == "step":
            inputs, targets = [x, *z], [*z, y]
            predictions = [activate(t, inputs[t] @ weights[t] + biases[t]) for t in range(depth)]
            residuals = [p - target for p, target in zip(predictions, targets)]
            value = 0.5 * sum((r**2).sum() for r in residuals)
            g = [r * slope(t, p) for t, (r, p) in enumerate(zip(residuals, predictions))]
            d_z = [g[t] @ weights[t].T - residuals[t - 1] for t in range(1, depth)]
            z = [z_t - problem.target_rate * d for z_t, d in zip(z, d_z)]
        else:
            inputs = [x]
            for t in range(depth):
                inputs.append(activate(t, inputs[t] @ weights[t] + biases[t]))
            residual = inputs[-1] - y
            value = 0.5 * (residual**2).sum()
            g = [residual]
            for t in reversed(range(1, depth)):
                g.insert(0, (g[0] @ weights[t].T) * slope(t - 1, inputs[t]))
        weights = [w - problem.rate * (i.T @ d) for w, i, d in zip(weights, inputs, g)]
        biases = [b - problem.rate * d.sum(0) for b, d in zip(biases, g)]
    return value, weights, biases, z
