"""Convolutions, each with 64 examples: layerwise and PyTorch, forward and vector-Jacobian product."""

import statistics

import numpy as np

EXAMPLES = 64
# Name: (channels, height, width), out channels, kernel, padding. The first two are LeNet's.
LAYERS = {
    "1 x 28 x 28 to 6, 5 x 5, padding 2": ((1, 28, 28), 6, 5, 2),
    "6 x 14 x 14 to 16, 5 x 5": ((6, 14, 14), 16, 5, 0),
    "32 x 32 x 32 to 32, 3 x 3, padding 1": ((32, 32, 32), 32, 3, 1),
}
KINDS = ("forward", "vjp")
TOLERANCE = 1e-4


def write(folder, layer):
    """Random arrays as layerwise stores them: channels fastest, examples slowest."""
    (c, h, w), m, k, p = layer
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([c, h, w, m, k, p])
    draw = lambda *shape: rng.standard_normal(shape).astype("<f4")
    draw(EXAMPLES, w, h, c).tofile(folder / "z.f32")
    weights = draw(k, k, c, m) * np.float32((c * k * k) ** -0.5)
    np.concatenate([weights.ravel(), draw(m)]).tofile(folder / "theta.f32")
    draw(EXAMPLES, w + 2 * p - k + 1, h + 2 * p - k + 1, m).tofile(folder / "u.f32")


def reference(folder, layer):
    """Output and gradients in f64, by sums over the entries of the kernel."""
    (c, h, w), m, k, p = layer
    read = lambda name: np.fromfile(folder / name, dtype="<f4").astype(np.float64)
    z = read("z.f32").reshape(EXAMPLES, w, h, c)
    theta = read("theta.f32")
    weights, bias = theta[:-m].reshape(k, k, c, m), theta[-m:]
    rows, columns = h + 2 * p - k + 1, w + 2 * p - k + 1
    u = read("u.f32").reshape(EXAMPLES, columns, rows, m)
    padded = np.pad(z, ((0, 0), (p, p), (p, p), (0, 0)))
    output, d_padded, d_weights = np.zeros_like(u) + bias, np.zeros_like(padded), np.zeros_like(weights)
    for x in range(k):
        for y in range(k):
            part = (slice(None), slice(x, x + columns), slice(y, y + rows))
            output += padded[part] @ weights[x, y]
            d_padded[part] += u @ weights[x, y].T
            d_weights[x, y] = np.tensordot(padded[part], u, axes=([0, 1, 2], [0, 1, 2]))
    d_z = d_padded[:, p : p + w, p : p + h]
    d_theta = np.concatenate([d_weights.ravel(), u.sum((0, 1, 2))])
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
    """Times all ways in turn, on each layer, and prints layerwise's share of PyTorch's time."""
    seconds = run.options.seconds
    for threads in run.options.threads:
        rows = []
        for name, layer in LAYERS.items():
            folder = run.folder / "convolution" / str(len(rows))
            write(folder, layer)
            expected = reference(folder, layer)
            ways = {}
            for peer in ("layerwise", "torch"):
                worker = run.workers.get((peer, threads))
                for way in worker.variants.get("convolution", [None]) if worker else []:
                    (c, h, w), m, k, p = layer
                    request = dict(
                        command="convolution", folder=str(folder), input=[c, h, w], channels=m, kernel=k,
                        padding=p, variant=way)

                    def ask(kind, seconds, worker=worker, request=request):
                        return worker.ask(**request, what=kind, seconds=seconds)["seconds"]

                    run.say(f"convolution {name}: {peer}, {way}, {threads} thread(s)")
                    for kind in KINDS:
                        check(ask, folder, f"{peer}, {way}: {name}", kind, expected)
                    ways[peer, way] = ask
            times = {}
            for _ in range(run.options.rounds):
                for way, ask in ways.items():
                    for kind in KINDS:
                        times.setdefault((way, kind), []).append(ask(kind, seconds))
            for kind in KINDS:
                own = times[("layerwise", None), kind]
                row = [f"{name}, {kind}", f"{1e6 * statistics.median(own):.0f}"]
                for way in ways:
                    if way[0] == "layerwise":
                        continue
                    theirs = times[way, kind]
                    share = ratio(own, theirs)
                    row.append(f"{1e6 * statistics.median(theirs):.0f}; {spread(share)}")
                    results["ratios"].append(dict(
                        ratio=f"layerwise / {', '.join(way)}", layer=name, kind=kind, threads=threads, **share))
                rows.append(row)
        others = [", ".join(way) for way in ways if way[0] != "layerwise"]
        print(f"## Convolutions of {EXAMPLES} examples, {threads} thread(s): µs, and layerwise's share of the peer's time\n")
        table(["layer", "layerwise", *others], rows)
