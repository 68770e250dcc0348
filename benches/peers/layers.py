"""Single layers: layerwise and PyTorch, forward and vector-Jacobian product."""

import statistics
from dataclasses import asdict, dataclass

import numpy as np

KINDS = ("forward", "vjp")
TOLERANCE = 1e-4


def draw(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype("<f4")


@dataclass
class Convolution:
    """A convolution of images with a square kernel and a bias. Channels are stored fastest, examples slowest."""

    input: tuple  # channels, height, width
    channels: int
    kernel: int
    padding: int
    examples: int = 64

    def __str__(self):
        (c, h, w), k, p = self.input, self.kernel, self.padding
        padding = f", padding {p}" if p else ""
        return f"convolution {c} x {h} x {w} to {self.channels}, {k} x {k}{padding}, {self.examples} examples"

    def output(self):
        (_, h, w), k, p = self.input, self.kernel, self.padding
        return w + 2 * p - k + 1, h + 2 * p - k + 1

    def arrays(self, rng):
        (c, h, w), m, k = self.input, self.channels, self.kernel
        weights = draw(rng, k, k, c, m, scale=(c * k * k) ** -0.5)
        theta = np.concatenate([weights.ravel(), draw(rng, m)])
        return draw(rng, self.examples, w, h, c), theta, draw(rng, self.examples, *self.output(), m)

    def reference(self, z, theta, u):
        """By sums over the entries of the kernel."""
        (c, h, w), m, k, p = self.input, self.channels, self.kernel, self.padding
        weights, bias = theta[:-m].reshape(k, k, c, m), theta[-m:]
        columns, rows = self.output()
        padded = np.pad(z, ((0, 0), (p, p), (p, p), (0, 0)))
        output, d_padded, d_weights = np.zeros_like(u) + bias, np.zeros_like(padded), np.zeros_like(weights)
        for x in range(k):
            for y in range(k):
                part = (slice(None), slice(x, x + columns), slice(y, y + rows))
                output += padded[part] @ weights[x, y]
                d_padded[part] += u @ weights[x, y].T
                d_weights[x, y] = np.tensordot(padded[part], u, axes=([0, 1, 2], [0, 1, 2]))
        d_theta = np.concatenate([d_weights.ravel(), u.sum((0, 1, 2))])
        return output, d_padded[:, p : p + w, p : p + h], d_theta


@dataclass
class LayerNorm:
    """Layer normalisation of every position, with a gain and a bias. The dim values of a position are stored fastest."""

    dim: int
    length: int
    examples: int

    def __str__(self):
        return f"layer normalisation of {self.dim}, {self.length} positions, {self.examples} examples"

    def arrays(self, rng):
        shape = (self.examples, self.length, self.dim)
        return draw(rng, *shape), draw(rng, 2 * self.dim), draw(rng, *shape)

    def reference(self, z, theta, u):
        gain, bias = theta[: self.dim], theta[self.dim :]
        centred = z - z.mean(2, keepdims=True)
        deviation = np.sqrt((centred**2).mean(2, keepdims=True) + 1e-5)
        unit = centred / deviation
        v = u * gain
        d_z = (v - v.mean(2, keepdims=True) - unit * (v * unit).mean(2, keepdims=True)) / deviation
        return unit * gain + bias, d_z, np.concatenate([(u * unit).sum((0, 1)), u.sum((0, 1))])


@dataclass
class Attention:
    """Multi-head self-attention with biases. The dim values of a position are stored fastest."""

    dim: int
    length: int
    heads: int
    examples: int

    def __str__(self):
        return f"attention of {self.dim}, {self.length} positions, {self.heads} heads, {self.examples} examples"

    def arrays(self, rng):
        d, shape = self.dim, (self.examples, self.length, self.dim)
        parts = [(d, 3 * d, d**-0.5), (3 * d, 1.0), (d, d, d**-0.5), (d, 1.0)]
        theta = np.concatenate([draw(rng, *size, scale=scale).ravel() for *size, scale in parts])
        return draw(rng, *shape), theta, draw(rng, *shape)

    def reference(self, z, theta, u):
        d, n, length, heads = self.dim, self.examples, self.length, self.heads
        w, b, v, c = np.split(theta, np.cumsum([3 * d * d, 3 * d, d * d]))
        w, v = w.reshape(d, 3 * d), v.reshape(d, d)
        apart = lambda a: a.reshape(n, length, heads, d // heads).transpose(0, 2, 1, 3)
        together = lambda a: a.transpose(0, 2, 1, 3).reshape(n, length, d)
        turned = lambda a: a.transpose(0, 1, 3, 2)
        query, key, value = (apart(part) for part in np.split(z @ w + b, 3, axis=2))
        factor = (d // heads) ** -0.5
        scores = factor * query @ turned(key)
        shares = np.exp(scores - scores.max(3, keepdims=True))
        shares /= shares.sum(3, keepdims=True)
        mixed = together(shares @ value)
        d_mixed = apart(u @ v.T)
        d_shares = d_mixed @ turned(value)
        d_scores = factor * shares * (d_shares - (d_shares * shares).sum(3, keepdims=True))
        parts = (d_scores @ key, turned(d_scores) @ query, turned(shares) @ d_mixed)
        d_in = np.concatenate([together(part) for part in parts], axis=2)
        product = lambda a, b: np.tensordot(a, b, axes=([0, 1], [0, 1])).ravel()
        d_theta = np.concatenate([product(z, d_in), d_in.sum((0, 1)), product(mixed, u), u.sum((0, 1))])
        return mixed @ v + c, d_in @ w.T, d_theta


# The first two convolutions are LeNet's.
LAYERS = [
    Convolution((1, 28, 28), 6, 5, 2),
    Convolution((6, 14, 14), 16, 5, 0),
    Convolution((32, 32, 32), 32, 3, 1),
    LayerNorm(64, 32, 64),
    LayerNorm(512, 64, 8),
    Attention(64, 32, 4, 32),
    Attention(128, 64, 8, 16),
]


def write(folder, layer):
    """Random arrays as layerwise stores them; returns the results in f64."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = layer.arrays(np.random.default_rng(list(str(layer).encode())))
    for name, array in zip(("z", "theta", "u"), arrays):
        array.tofile(folder / f"{name}.f32")
    output, d_z, d_theta = layer.reference(*(array.astype(np.float64) for array in arrays))
    return {"forward": {"output": output}, "vjp": {"d_z": d_z, "d_theta": d_theta}}


def check(ask, folder, layer, kind, expected):
    """Refuses a way that computes something else."""
    ask(kind, None)
    for name, right in expected[kind].items():
        found = np.fromfile(folder / f"{name}.f32", dtype="<f4")
        gap = np.abs(found - right.ravel()).max() / np.abs(right).max()
        if not gap <= TOLERANCE:
            raise SystemExit(f"{layer}, {kind}: {name} is off by {gap:.1e} of its largest entry")


def compare(run, results, table, spread, ratio):
    """Times all ways in turn, on each layer, and prints layerwise's share of the time of each of PyTorch's ways."""
    for threads in run.options.threads:
        rows = []
        for number, layer in enumerate(LAYERS):
            folder = run.folder / "layer" / str(number)
            expected = write(folder, layer)
            settings = {"kind": type(layer).__name__, **asdict(layer)}
            ways = {}
            for peer in ("layerwise", "torch"):
                worker = run.workers.get((peer, threads))
                variants = worker.variants.get("layer", {}) if worker else {}
                for way in variants.get(settings["kind"], [None]) if worker else []:

                    def ask(what, seconds, worker=worker, way=way):
                        request = dict(command="layer", folder=str(folder), layer=settings, variant=way)
                        return worker.ask(**request, what=what, seconds=seconds)["seconds"]

                    run.say(f"{layer}: {peer}, {way}, {threads} thread(s)")
                    for kind in KINDS:
                        check(ask, folder, f"{peer}, {way}: {layer}", kind, expected)
                    ways[peer, way] = ask
            times = {}
            for _ in range(run.options.rounds):
                for way, ask in ways.items():
                    for kind in KINDS:
                        times.setdefault((way, kind), []).append(ask(kind, run.options.seconds))
            for kind in KINDS:
                own = times[("layerwise", None), kind]
                for (peer, way), theirs in ((way, times[way, kind]) for way in ways if way[1] is not None):
                    share = ratio(own, theirs)
                    median = lambda seconds: f"{1e6 * statistics.median(seconds):.0f}"
                    rows.append([str(layer), kind, median(own), f"{peer}, {way}", median(theirs), spread(share)])
                    results["ratios"].append(dict(
                        ratio=f"layerwise / {peer}, {way}", layer=str(layer), kind=kind, threads=threads, **share))
        print(f"## Layers, {threads} thread(s): µs, and layerwise's share of the peer's time\n")
        table(["layer", "product", "layerwise", "peer", "its time", "ratio"], rows)
