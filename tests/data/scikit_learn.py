"""Writes scikit_learn.json: losses, metrics and splits by NumPy and scikit-learn, for
tests/suite/semantics.rs.

    pip install numpy scikit-learn && python3 scikit_learn.py
"""

import json
from pathlib import Path

import numpy as np
import sklearn
from sklearn import calibration, metrics, model_selection

rng = np.random.default_rng(11)


# --- losses: sums over the batch, one row per example -------------------------------------------

DIM, N = 4, 5
prediction = 3 * rng.normal(size=(N, DIM))
binary = rng.uniform(size=(N, DIM))
hard = (rng.uniform(size=(N, DIM)) < 0.3).astype(float)
real = 3 * rng.normal(size=(N, DIM))
weights = np.array([0.5, 2.0, 1.0, 3.0])


def binary_terms(y, x, pos_weight):
    """The loss and gradient that PyTorch documents for BCEWithLogitsLoss(pos_weight=…)."""
    log_on, log_off = -np.logaddexp(0, -x), -np.logaddexp(0, x)
    on, off = np.exp(log_on), np.exp(log_off)
    value = -(pos_weight * y * log_on + (1 - y) * log_off).sum()
    return value, (1 - y) * on - pos_weight * y * off


def case(target, value, gradient):
    return {
        "target": target.ravel().tolist(),
        "value": float(value),
        "gradient": gradient.ravel().tolist(),
    }


def quantile(level):
    value = N * metrics.mean_pinball_loss(real, prediction, alpha=level, multioutput="raw_values")
    return case(real, value.sum(), np.where(real > prediction, -level, 1 - level))


losses = {
    "positive_weights": case(binary, *binary_terms(binary, prediction, weights)),
    "positive_weights_of_labels": case(hard, *binary_terms(hard, prediction, weights)),
    "binary_smoothing": case(hard, *binary_terms(0.8 * hard + 0.1, prediction, 1.0)),
    "quantile_of_a_tenth": quantile(0.1),
    "quantile_of_three_quarters": quantile(0.75),
}


# --- metrics ------------------------------------------------------------------------------------

CLASSES, COUNT = 4, 40
scores = rng.normal(size=(COUNT, CLASSES))
# The last class is never predicted, and the third has no examples.
scores[:, 3] -= 9.0
truth = rng.choice([0, 1, 3], size=COUNT)
predicted = scores.argmax(1)
probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
probabilities[0] = [1.0, 0.0, 0.0, 0.0]
truth[0] = 1
on = rng.uniform(size=COUNT).round(3)
is_on = (rng.uniform(size=COUNT) < on**2).astype(int)


def averages(score):
    options = {"labels": range(CLASSES), "zero_division": 0}
    return {
        "classes": score(truth, predicted, average=None, **options).tolist(),
        "macro": score(truth, predicted, average="macro", zero_division=0),
        "micro": score(truth, predicted, average="micro"),
    }


def calibration_error(outcome, confidence, bins):
    """Of the bins of scikit-learn's calibration curve."""
    fraction, mean = calibration.calibration_curve(outcome, confidence, n_bins=bins)
    edges = np.linspace(0.0, 1.0, bins + 1)
    places = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(places, minlength=bins)
    return float((counts[counts > 0] / len(outcome) * np.abs(fraction - mean)).sum())


largest = probabilities.max(1)
right = (probabilities.argmax(1) == truth).astype(int)
every = range(CLASSES)
classified = {
    "classes": CLASSES,
    "scores": scores.ravel().tolist(),
    "truth": truth.tolist(),
    "precision": averages(metrics.precision_score),
    "recall": averages(metrics.recall_score),
    "f1": averages(metrics.f1_score),
    "probabilities": probabilities.ravel().tolist(),
    "log_loss": metrics.log_loss(truth, probabilities, labels=every),
    "brier": metrics.brier_score_loss(truth, probabilities, labels=every, scale_by_half=False),
    "calibration": {bins: calibration_error(right, largest, bins) for bins in [1, 10, 15]},
    "on": on.tolist(),
    "is_on": is_on.tolist(),
    "binary_accuracy": metrics.accuracy_score(is_on, on >= 0.5),
    "binary_log_loss": metrics.log_loss(is_on, on),
    "binary_brier": metrics.brier_score_loss(is_on, on),
    "binary_calibration": {bins: calibration_error(is_on, on, bins) for bins in [1, 4, 10]},
}


# --- splits -------------------------------------------------------------------------------------


def folds(splitter, labels, groups=None):
    return [test.tolist() for _, test in splitter.split(labels, labels, groups)]


group_sizes = [9, 1, 4, 4, 7, 2, 2, 3]
groups = np.repeat(np.arange(len(group_sizes)), group_sizes)
class_sizes = [11, 7, 5]
labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
splits = {
    "groups": {
        "sizes": group_sizes,
        "tests": {
            k: sorted(map(len, folds(model_selection.GroupKFold(k), groups, groups)))
            for k in [2, 3, 8]
        },
    },
    "stratified": {
        "sizes": class_sizes,
        "tests": {
            k: [
                np.bincount(labels[test], minlength=len(class_sizes)).tolist()
                for test in folds(model_selection.StratifiedKFold(k), labels)
            ]
            for k in [2, 3, 4]
        },
    },
    "time": [
        {"n": n, "k": k, "folds": folds(model_selection.TimeSeriesSplit(k), np.zeros(n))}
        for n, k in [(7, 2), (12, 3), (13, 3), (6, 5)]
    ],
}

Path(__file__).with_name("scikit_learn.json").write_text(
    json.dumps(
        {
            "made_by": {"numpy": np.__version__, "sklearn": sklearn.__version__},
            "prediction": prediction.ravel().tolist(),
            "dim": DIM,
            "weights": weights.tolist(),
            "losses": losses,
            "metrics": classified,
            "splits": splits,
        },
        indent=1,
    )
    + "\n"
)
