"""What the Python workers share: the commands, one JSON object a line, and a net's arrays."""

import json
import sys
from pathlib import Path

import numpy as np


class Problem:
    """A net, its data and where it starts; W is in x out, z is n x d."""

    def __init__(self, folder):
        folder = Path(folder)
        description = json.loads((folder / "net.json").read_text())
        self.widths = description["widths"]
        self.n = description["examples"]
        self.rate = description["rate"] / self.n
        self.target_rate = description["target_rate"]
        self.depth = len(self.widths) - 1
        read = lambda name: np.fromfile(folder / name, dtype="<f4")
        self.x = read("x.f32").reshape(self.n, -1)
        self.y = read("y.f32").reshape(self.n, -1)
        self.weights, self.biases = [], []
        for t, (k, m) in enumerate(zip(self.widths, self.widths[1:])):
            theta = read(f"theta{t}.f32")
            self.weights.append(theta[: k * m].reshape(k, m))
            self.biases.append(theta[k * m :])
        self.z = [read(f"z{t}.f32").reshape(self.n, -1) for t in range(1, self.depth)]


def write_state(folder, weights, biases, z):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for t, (w, b) in enumerate(zip(weights, biases)):
        theta = np.concatenate([np.asarray(w).ravel(), np.asarray(b).ravel()])
        theta.astype("<f4").tofile(folder / f"theta{t}.f32")
    for t, z_t in enumerate(z, 1):
        np.asarray(z_t).astype("<f4").tofile(folder / f"z{t}.f32")


def serve(peer):
    """Answers commands until the input ends.

    A peer has `version`, `variants(kind)`, `run(problem, kind, variant, steps)`, which returns
    seconds of all steps but the first, the value before the last update, and (weights, biases, z), and maybe `digits`
    and `layer`.
    """
    problems = {}
    # What a library prints must not come between the answers.
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = answer(peer, problems, request)
        except Exception as error:  # the driver decides what it means
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


def answer(peer, problems, request):
    command = request["command"]
    if command == "hello":
        kinds = {kind: peer.variants(kind) for kind in ("step", "backprop")}
        kinds["digits"] = getattr(peer, "digits_variants", [])
        kinds["layer"] = getattr(peer, "layer_variants", {})
        return {"version": peer.version, "kinds": {k: v for k, v in kinds.items() if v}}
    if command == "load":
        problems[request["net"]] = Problem(request["folder"])
        return {}
    if command == "digits":
        return peer.digits(request)
    if command == "layer":
        return {"seconds": peer.layer(request)}
    problem = problems[request["net"]]
    run = (problem, request["kind"], request["variant"], request["steps"])
    seconds, value, state = peer.run(*run)
    if command == "check":
        write_state(request["folder"], *state())
        return {"value": value}
    if command == "time":
        return {"seconds": seconds}
    raise ValueError(f"no command {command}")
