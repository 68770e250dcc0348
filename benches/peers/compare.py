"""The comparison: checks that all peers compute the same numbers, then times them in turn.

Started by run.py, which makes the environment. `--help` lists the options.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import layers
import digits
import nets
from options import options_of
from worker import Problem

HERE = Path(__file__).resolve().parent
# Largest difference to the reference: of values, relative to the largest entry of their array, and
# of the way that parameters and targets went, relative to the longest way in the array.
TOLERANCE, WAY_TOLERANCE = 1e-4, 1e-2


# What the kinds of steps compute that have a reference. Adam has none: its own tests check it.
STEPS = {
    "step": "step", "step64": "step", "sequential": "step", "layers": "step", "columns": "step",
    "backprop": "backprop", "backprop64": "backprop",
}


class Failed(Exception):
    """A worker said that something went wrong."""


class Worker:
    """A process that computes for one peer with one number of threads."""

    def __init__(self, peer, threads, cores, binary, pcx_python):
        if peer in ("layerwise", "candle", "burn"):
            command = [str(binary), peer, str(threads)]
        else:
            python = pcx_python if peer == "pcx" else sys.executable
            if python is None:
                raise Failed("its requirements do not install")
            command = [str(python), str(HERE / f"worker_{peer}.py"), str(threads)]
        environment = dict(os.environ, JAX_PLATFORMS="cpu", NPROC=str(threads))
        for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(threads)
        if threads == 1:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        mine = sorted(cores)[-threads:]
        self.peer, self.threads = peer, threads
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, mine),
        )
        self.loaded = set()
        hello = self.ask(command="hello")
        self.version, kinds = hello["version"], hello["kinds"]
        self.variants = kinds if isinstance(kinds, dict) else {kind: [None] for kind in kinds}

    def ask(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"the worker of {self.peer} ended")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(f"{self.peer}: {reply['error']}")
        return reply

    def ask_on(self, net, data, **request):
        if net not in self.loaded:
            self.ask(command="load", net=net, folder=str(data / net))
            self.loaded.add(net)
        return self.ask(net=net, **request)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Series:
    """The times of one step of one worker, a round each.

    A run makes one step more than it times: the first one makes memory.
    """

    def __init__(self, worker, net, kind, variant, folder):
        self.worker, self.net, self.kind, self.variant = worker, net, kind, variant
        self.folder, self.steps, self.times = folder, 1, []

    @property
    def key(self):
        return (self.worker.peer, self.worker.threads, self.net, self.kind)

    def seconds(self):
        request = dict(command="time", kind=self.kind, variant=self.variant, steps=self.steps + 1)
        return self.worker.ask_on(self.net, self.folder, **request)["seconds"]

    def calibrate(self, seconds):
        """Finds how many steps take about so long."""
        self.steps = 1
        self.seconds()
        while (taken := self.seconds()) < 0.2 * seconds:
            self.steps *= 4
        self.steps = max(1, round(self.steps * seconds / taken))

    def measure(self):
        self.times.append(self.seconds() / self.steps)


class Check:
    """Compares what workers compute with the reference, and with it with one another."""

    def __init__(self, folder):
        self.folder, self.references, self.worst = folder, {}, {}

    def __call__(self, worker, net, kind, variant):
        for steps in (1, 3):
            problem, expected = self.reference(net, kind, steps)
            with tempfile.TemporaryDirectory() as out:
                request = dict(kind=kind, variant=variant, steps=steps, folder=out)
                value = worker.ask_on(net, self.folder, command="check", **request)["value"]
                found = self.read(problem, out)
            self.judge(worker, net, kind, variant, "value", value, expected[0], None)
            start = [problem.weights, problem.biases, problem.z]
            for name, own, right, before in zip("Wbz", found, expected[1:], start):
                for t, arrays in enumerate(zip(own, right, before)):
                    self.judge(worker, net, kind, variant, f"{name}[{t}]", *arrays)

    def reference(self, net, kind, steps):
        key = (net, STEPS[kind], steps)
        if key not in self.references:
            problem = Problem(self.folder / net)
            self.references[key] = problem, nets.reference(problem, STEPS[kind], steps)
        return self.references[key]

    def read(self, problem, folder):
        weights, biases = [], []
        for t, w in enumerate(problem.weights):
            theta = np.fromfile(f"{folder}/theta{t}.f32", dtype="<f4")
            weights.append(theta[: w.size].reshape(w.shape))
            biases.append(theta[w.size :])
        z = [np.fromfile(f"{folder}/z{t}.f32", dtype="<f4") for t in range(1, problem.depth)]
        return weights, biases, [a.reshape(problem.n, -1) for a in z]

    def judge(self, worker, net, kind, variant, what, found, expected, before):
        def gap(found, expected):
            largest = np.abs(expected).max()
            return float(np.abs(found - expected).max() / largest) if largest > 0 else 0.0

        gaps = [(gap(found, expected), TOLERANCE, "")]
        if before is not None and not np.array_equal(expected, before):
            gaps.append((gap(found - before, expected - before), WAY_TOLERANCE, "the way of "))
        for size, tolerance, of in gaps:
            if not size <= tolerance:
                raise SystemExit(
                    f"{worker.peer} ({variant}), {worker.threads} threads, net {net}, {kind}: "
                    f"{of}{what} is off by {size:.1e} of the largest entry, more than {tolerance}"
                )
        worst = self.worst.get(worker.peer, 0.0)
        self.worst[worker.peer] = max(worst, gaps[0][0])


class Run:
    def __init__(self, options):
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="peers-"))
        self.cores = os.sched_getaffinity(0)
        self.workers, self.missing, self.series, self.peaks = {}, {}, {}, {}
        self.check = Check(self.folder)
        for peer in options.peers:
            for threads in options.threads:
                self.start(peer, threads)
        for threads in options.threads:
            if ("layerwise", threads) not in self.workers:
                raise SystemExit(self.missing["layerwise"])

    def start(self, peer, threads):
        if threads > len(self.cores):
            raise SystemExit(f"{threads} threads, but only {len(self.cores)} cores")
        try:
            worker = Worker(peer, threads, self.cores, self.options.binary, self.options.pcx_python)
            self.workers[peer, threads] = worker
        except (Failed, OSError) as error:
            self.missing[peer] = str(error)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def write_net(self, net):
        if not (self.folder / net / "net.json").exists():
            nets.write(net, self.folder / net)

    def choose(self, worker, net, kind):
        """A series with the fastest of the ways that the worker has of making this step."""
        candidates = []
        for variant in worker.variants[kind][: 1 if self.options.quick else None]:
            try:
                self.check(worker, net, kind, variant)
                series = Series(worker, net, kind, variant, self.folder)
                series.calibrate(0.3 * self.options.seconds)
                candidates.append(series)
            except Failed as error:
                self.missing[f"{worker.peer}, {variant}, net {net}, {kind}"] = str(error)[:200]
        if not candidates:
            return None
        if len(candidates) > 1:
            for _ in range(3):
                for series in candidates:
                    series.measure()
        best = min(candidates, key=lambda s: min(s.times, default=0.0))
        best.times = []
        best.calibrate(self.options.seconds)
        return best

    def rounds(self, series):
        """Times all series in turn, and the machine's limit with them; returns that of each round."""
        limit = self.workers["layerwise", min(self.options.threads)]
        peaks = []
        for number in range(self.options.rounds):
            seconds = min(0.2, self.options.seconds)
            ask = lambda double: limit.ask(command="peak", double=double, seconds=seconds)["gflops"]
            peaks.append((ask(False), ask(True)))
            # Nobody always comes after the same neighbour.
            first = number * len(series) // self.options.rounds
            for one in series[first:] + series[:first]:
                one.measure()
        return peaks

    def time_net(self, net, wanted):
        """Checks and times (peer, threads, kind) on a net."""
        self.write_net(net)
        series = []
        for peer, threads, kind in wanted:
            worker = self.workers.get((peer, threads))
            if worker is None or kind not in worker.variants:
                continue
            self.say(f"net {net}: {peer}, {kind}, {threads} thread(s)")
            if kind in ("step", "backprop"):
                chosen = self.choose(worker, net, kind)
            else:
                if kind in STEPS:
                    self.check(worker, net, kind, None)
                chosen = Series(worker, net, kind, None, self.folder)
                chosen.calibrate(self.options.seconds)
            if chosen is not None:
                series.append(chosen)
        self.say(f"net {net}: {self.options.rounds} rounds of {len(series)} series")
        self.peaks[net] = self.rounds(series)
        self.series.update({one.key: one for one in series})

    def times(self, *key):
        return self.series[key].times if key in self.series else None


def summary(values):
    return dict(median=statistics.median(values), low=min(values), high=max(values))


def ratio(over, under):
    """Ratio of the medians, and the least and largest ratio of a round."""
    rounds = [a / b for a, b in zip(over, under)]
    middle = statistics.median(over) / statistics.median(under)
    return dict(median=middle, low=min(rounds), high=max(rounds))


def spread(s, digits=2, scale=1.0):
    low, high = scale * s["low"], scale * s["high"]
    return f"{scale * s['median']:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def microseconds(seconds):
    value = 1e6 * seconds
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(head, rows):
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    pad = lambda row: "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |"
    print(pad(head))
    print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for row in rows[1:]:
        print(pad(row))
    print()


def compare_steps(run, results):
    options = run.options
    for net in options.nets:
        kinds = ("step", "backprop")
        run.time_net(net, [(p, t, k) for t in options.threads for k in kinds for p in options.peers])
    for threads in options.threads:
        for kind, title in (("step", "The decoupled step"), ("backprop", "A backprop step")):
            print(f"## {title}, {threads} thread(s): µs, and layerwise's share of the peer's time\n")
            peers = [p for p in options.peers if any((p, threads, n, kind) in run.series for n in options.nets)]
            rows = []
            for net in options.nets:
                own = run.times("layerwise", threads, net, kind)
                row = [net]
                for peer in peers:
                    times = run.times(peer, threads, net, kind)
                    if times is None:
                        row.append("–")
                        continue
                    text = microseconds(statistics.median(times))
                    if peer != "layerwise":
                        share = ratio(own, times)
                        text += f"; {spread(share)}"
                        results["ratios"].append(dict(
                            ratio=f"layerwise / {peer}", net=net, threads=threads, kind=kind, **share))
                    row.append(text)
                rows.append(row)
            table(["net", *peers], rows)
    print("## Layerwise against the machine, and two threads against one\n")
    rows = []
    for net in options.nets:
        row = [net]
        own = run.times("layerwise", 1, net, "step")
        if own is not None:
            reached = [nets.flops(net) / t / 1e9 for t in own]
            fraction = ratio(reached, [peak for peak, _ in run.peaks[net]])
            results["ratios"].append(dict(
                ratio="step / FMA peak", net=net, threads=1, kind="step", **fraction))
            row.append(f"{statistics.median(reached):.1f}")
            row.append(spread(fraction))
        else:
            row += ["–", "–"]
        for peer in ("layerwise", "jax", "torch"):
            one, two = run.times(peer, 1, net, "step"), run.times(peer, 2, net, "step")
            if one is None or two is None:
                row.append("–")
                continue
            gain = ratio(one, two)
            results["ratios"].append(dict(
                ratio=f"{peer}: 1 thread / 2 threads", net=net, kind="step", **gain))
            row.append(spread(gain))
        rows.append(row)
    head = ["net", "GFLOP/s", "of the FMA peak", "2 threads gain", "JAX's gain", "PyTorch's gain"]
    table(head, rows)
    print("The ways taken, the fastest of those tried:\n")
    for peer in options.peers:
        ways = {}
        for (p, threads, net, kind), one in run.series.items():
            if p == peer and one.variant:
                ways.setdefault(one.variant, []).append(f"{net} {kind} {threads}")
        for way, where in ways.items():
            print(f"- {peer}, {way}: {', '.join(where)}")
    print()


def compare_own(run, results):
    threads = run.options.threads
    layerwise = lambda kinds, counts: [("layerwise", t, k) for t in counts for k in kinds]
    kinds = ["step", "backprop", "adam", "step64", "backprop64"]
    modes, many = ["sequential", "layers", "columns"], [t for t in threads if t > 1]
    for net in run.options.nets:
        run.time_net(net, layerwise(kinds, threads) + layerwise(modes, many))
    for count in many:
        rows = []
        for net in run.options.nets:
            times = {mode: run.times("layerwise", count, net, mode) for mode in modes}
            best = min(times.values(), key=statistics.median)
            automatic = run.times("layerwise", count, net, "step")
            quotient = ratio(automatic, best)
            results["ratios"].append(dict(
                ratio="automatic / best of the modes", net=net, threads=count, **quotient))
            medians = [microseconds(statistics.median(t)) for t in (*times.values(), automatic)]
            rows.append([net, *medians, spread(quotient)])
        print(f"## What {count} threads share: µs a step\n")
        table(["net", *modes, "automatic", "automatic / best of the others"], rows)
    rows = []
    for count in threads:
        for net in run.options.nets:
            row = [str(count), net]
            step = run.times("layerwise", count, net, "step")
            pairs = [
                ("f64 / f32", "step64", "step"),
                ("f64 / f32, backprop", "backprop64", "backprop"),
                ("Adam / descent", "adam", "step"),
                ("step / backprop", "step", "backprop"),
            ]
            row.append(microseconds(statistics.median(step)))
            for name, over, under in pairs:
                quotient = ratio(
                    run.times("layerwise", count, net, over), run.times("layerwise", count, net, under))
                results["ratios"].append(dict(ratio=name, net=net, threads=count, **quotient))
                row.append(spread(quotient))
            rows.append(row)
    print("## Layerwise against itself\n")
    table(["threads", "net", "step, µs", *[p[0] for p in pairs]], rows)

    # Both nets of a pair in the same rounds.
    rows = []
    for name, small, large, unit in [
        ("time a layer, depth 128 / 4", "depth 4", "depth 128", lambda net: len(nets.NETS[net][0]) - 1),
        ("time an example, n 1024 / 32", "M, n = 32", "M, n = 1024", lambda net: nets.NETS[net][1]),
    ]:
        series = []
        for count in threads:
            worker = run.workers["layerwise", count]
            for net in (small, large):
                run.write_net(net)
                run.say(f"net {net}: {count} thread(s)")
                run.check(worker, net, "step", None)
                one = Series(worker, net, "step", None, run.folder)
                one.calibrate(run.options.seconds)
                series.append(one)
        run.peaks[f"{small}, {large}"] = run.rounds(series)
        run.series.update({one.key: one for one in series})
        for count in threads:
            per = [[t / unit(net) for t in run.times("layerwise", count, net, "step")] for net in (small, large)]
            quotient = ratio(per[1], per[0])
            results["ratios"].append(dict(ratio=name, threads=count, **quotient))
            medians = [microseconds(statistics.median(p)) for p in per]
            rows.append([name, str(count), *medians, spread(quotient)])
    table(["", "threads", "small, µs", "large, µs", "large / small"], rows)


# Layers (m, k, n).
SHAPES = [
    (512, 784, 128), (64, 64, 1797), (30, 30, 100), (128, 128, 128), (512, 512, 128), (1024, 1024, 256),
]
LIBRARIES = ["nalgebra", "matrixmultiply", "gemm", "faer", "layerwise"]


def compare_products(run, results):
    worker = run.workers["layerwise", min(run.options.threads)]
    seconds = 0.02 if run.options.quick else 0.1
    for double in (False, True):
        rows = []
        for m, k, n in SHAPES:
            found = {}
            for _ in range(run.options.rounds):
                for library in LIBRARIES:
                    for product in ("WZ", "GZt", "WtG"):
                        request = dict(by=library, product=product, m=m, k=k, n=n)
                        reply = worker.ask(command="product", double=double, seconds=seconds, **request)
                        found.setdefault((library, product), []).append(reply["gflops"])
            row = [f"{m}, {k}, {n}"]
            for library in LIBRARIES:
                speeds = [found[library, product] for product in ("WZ", "GZt", "WtG")]
                row.append("/".join(f"{statistics.median(s):.0f}" for s in speeds))
                for product, s in zip(("WZ", "GZt", "WtG"), speeds):
                    results["products"].append(dict(
                        library=library, product=product, m=m, k=k, n=n, double=double, **summary(s)))
            rows.append(row)
        print(f"## Products W·Z / G·Zᵀ / Wᵀ·G in {'f64' if double else 'f32'}, GFLOP/s, {worker.threads} thread(s)\n")
        table(["m, k, n", *LIBRARIES], rows)


# Accuracies on the test images, and the seeds of the initial weights and of the shuffling.
LEVELS = [0.95, 0.97]
SEEDS = [0, 1, 2, 3, 4]
# Epochs of the schedule: those of the example `digits`.
SCHEMES = {"backprop": 300, "joint": 600, "refreshed": 600, "persistent": 600}


def compare_digits(run, results):
    data = run.folder / "digits"
    seeds = SEEDS[:1] if run.options.quick else SEEDS
    digits.write(data, seeds)
    examples = (data / "train_labels.f32").stat().st_size // 4
    for batch in (examples,) if run.options.quick else (examples, 128):
        for threads in run.options.threads:
            ways = [("layerwise", scheme) for scheme in SCHEMES]
            for peer in ("jax", "torch"):
                worker = run.workers.get((peer, threads))
                variants = worker.variants.get("digits", []) if worker else []
                ways += [(peer, v) for v in variants[: 1 if run.options.quick else None]]
            digits_table(run, results, data, seeds, batch, threads, ways)


def digits_table(run, results, data, seeds, batch, threads, ways):
    def ask(way, seed, **request):
        peer, variant = way
        total = SCHEMES[variant.split(",")[0]]
        common = dict(command="digits", data=str(data), start=str(data / str(seed)), widths=digits.WIDTHS)
        common |= dict(variant=variant, seed=seed, batch=batch, total=total)
        return run.workers[peer, threads].ask(**common, **(dict(epochs=total, until=None) | request))

    needed, seconds = {}, {}
    for way in ways:
        run.say(f"digits, {batch} a step: {', '.join(way)}, {threads} thread(s)")
        for seed in seeds:
            reached = ask(way, seed, until=max(LEVELS))["accuracies"]
            for level in LEVELS:
                epochs = (i for i, accuracy in enumerate(reached, 1) if accuracy >= level)
                needed[way, seed, level] = next(epochs, None)
    for _ in range(run.options.rounds):
        for seed in seeds:
            for level in LEVELS:
                for way in ways:
                    epochs = needed[way, seed, level]
                    if epochs is not None:
                        taken = ask(way, seed, epochs=epochs)["seconds"]
                        seconds.setdefault((way, seed, level), []).append(taken)
    rows = []
    for way in ways:
        row = [", ".join(way)]
        for level in LEVELS:
            epochs = [needed[way, seed, level] for seed in seeds]
            times = [statistics.median(seconds[way, s, level]) for s, e in zip(seeds, epochs) if e]
            results["digits"].append(dict(
                peer=way[0], way=way[1], batch=batch, threads=threads, level=level, epochs=epochs,
                seconds=times))
            if None in epochs:
                row += [f"{len(times)} of {len(epochs)} seeds", "–"]
            else:
                row += [f"{statistics.median(epochs):.0f}", spread(summary(times), 1, 1e3)]
        rows.append(row)
    print(f"## Digits, {batch} examples a step, {threads} thread(s): to a test accuracy, medians of {len(seeds)} seeds\n")
    head = [["epochs", f"ms to {100 * level:.0f} %"] for level in LEVELS]
    table(["scheme", *sum(head, [])], rows)


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            family = [l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines()
                      if l.split(":")[0].strip() in ("cpu family", "model")][:2]
            return f"{value.strip()}, family {family[0]}, model {family[1]}"
    return platform.processor()


def commit():
    """The commit that was measured, and whether its files were changed since."""
    git = lambda *words: subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True)
    return git("describe", "--always", "--dirty").stdout.strip()


def main():
    options = options_of(__doc__)
    run = Run(options)
    versions = {}
    for (peer, _), worker in run.workers.items():
        versions[peer] = worker.version
    versions["layerwise"] = commit() or versions["layerwise"]
    results = dict(
        date=datetime.date.today().isoformat(), processor=processor(), cores=len(run.cores),
        python=platform.python_version(), versions=versions, missing=run.missing,
        rounds=options.rounds, seconds=options.seconds, ratios=[], products=[], digits=[])
    print(f"# layerwise and its peers, {results['date']}\n")
    print(f"{results['processor']}; {results['cores']} logical processors; Python {results['python']}")
    print("; ".join(f"{peer} {version}" for peer, version in versions.items()))
    for peer, reason in run.missing.items():
        print(f"missing: {peer} ({reason})")
    print(f"{options.rounds} rounds of {options.seconds} s a series; medians (least–largest round)\n")
    groups = dict(
        step=compare_steps, own=compare_own, products=compare_products, digits=compare_digits,
        layers=lambda run, results: layers.compare(run, results, table, spread, ratio))
    for group in options.only:
        if group in groups:
            groups[group](run, results)
    if run.check.worst:
        print("Largest difference to the reference in f64, of the largest entry of an array:")
        print("; ".join(f"{peer} {worst:.1e}" for peer, worst in run.check.worst.items()))
    if run.peaks:
        for i, name in enumerate(("f32", "f64")):
            peaks = summary([p[i] for rounds in run.peaks.values() for p in rounds])
            results[f"peak_{name}"] = peaks
            print(f"FMA peak of one thread in {name}: {spread(peaks, 1)} GFLOP/s")
        if results["peak_f32"]["low"] < 0.95 * results["peak_f32"]["high"]:
            print("The peak was not the same in all rounds: something else ran on this machine.")
    for what, reason in run.missing.items():
        print(f"missing: {what} ({reason})")
    results["series"] = [
        dict(peer=p, threads=t, net=n, kind=k, way=one.variant, steps=one.steps, seconds=one.times)
        for (p, t, n, k), one in run.series.items()]
    results["peaks"] = run.peaks
    results["largest_difference"] = run.check.worst
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    for worker in run.workers.values():
        worker.end()


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
