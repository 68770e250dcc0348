"""Writes scikit_learn.json: losses by NumPy and scikit-learn, for tests/suite/semantics.rs.

    pip install numpy scikit-learn && python3 scikit_learn.py
"""

import json
from pathlib import Path

import numpy as np
import sklearn
from sklearn import metrics

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

Path(__file__).with_name("scikit_learn.json").write_text(
    json.dumps(
        {
            "made_by": {"numpy": np.__version__, "sklearn": sklearn.__version__},
            "prediction": prediction.ravel().tolist(),
            "dim": DIM,
            "weights": weights.tolist(),
            "losses": losses,
        },
        indent=1,
    )
    + "\n"
)
