"""The bundled handwritten digits, and what training on them needs beside the steps."""

import csv
import gzip
import math
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[2] / "examples" / "data" / "digits.csv.gz"
WIDTHS = [64, 64, 64, 10]
RATE = 1e-2
# Where the half cosine of the learning rate ends.
END = 0.05
ADAM = dict(first=0.9, second=0.999, epsilon=1e-8)


def write(folder, seeds, split_seed=2):
    """80 to 20; pixels / 16, centred by the training images' means. Weights of every seed too."""
    with gzip.open(FILE, "rt") as file:
        rows = np.array([[float(v) for v in row] for row in csv.reader(file)])
    rows = rows[np.random.default_rng(split_seed).permutation(len(rows))]
    images, labels = rows[:, :-1] / 16, rows[:, -1].astype(int)
    parts = slice(None, len(rows) * 4 // 5), slice(len(rows) * 4 // 5, None)
    images = images - images[parts[0]].mean(0)
    folder.mkdir(parents=True)
    save = lambda name, array: array.astype("<f4").tofile(folder / name)
    for part, rows in zip(("train", "test"), parts):
        save(f"{part}_x.f32", images[rows])
        save(f"{part}_y.f32", np.eye(10)[labels[rows]])
        save(f"{part}_labels.f32", labels[rows])
    for seed in seeds:
        (folder / str(seed)).mkdir()
        rng = np.random.default_rng(seed)
        for t, (k, m) in enumerate(zip(WIDTHS, WIDTHS[1:])):
            weights = k**-0.5 * rng.standard_normal((k, m))
            save(f"{seed}/theta{t}.f32", np.concatenate([weights.ravel(), np.zeros(m)]))


class Task:
    """What a request of the driver asks for."""

    def __init__(self, request):
        data, start = Path(request["data"]), Path(request["start"])
        self.widths = request["widths"]
        read = lambda name: np.fromfile(data / name, dtype="<f4")
        self.x = read("train_x.f32").reshape(-1, self.widths[0])
        self.y = read("train_y.f32").reshape(-1, self.widths[-1])
        self.test_x = read("test_x.f32").reshape(-1, self.widths[0])
        self.test_labels = read("test_labels.f32").astype(int)
        self.theta = []
        for t, (k, m) in enumerate(zip(self.widths, self.widths[1:])):
            theta = np.fromfile(start / f"theta{t}.f32", dtype="<f4")
            self.theta.append((theta[: k * m].reshape(k, m), theta[k * m :]))
        self.variant, self.seed = request["variant"], request["seed"]
        self.batch, self.epochs = request["batch"], request["epochs"]
        self.until = request["until"]
        self.n = len(self.x)
        self.steps = math.ceil(self.n / self.batch) * request["total"]

    def rate(self, step):
        """η of a step, from 0."""
        return RATE * (END + (1 - END) * (1 + math.cos(math.pi * step / self.steps)) / 2)

    def accuracy(self, outputs):
        return float((np.asarray(outputs).argmax(1) == self.test_labels).mean())
