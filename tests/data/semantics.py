"""Writes semantics.json: what PyTorch, scikit-learn and SciPy compute, for tests/suite/semantics.rs.

    pip install torch scikit-learn scipy && python3 semantics.py

Longley and Filip are of the Statistical Reference Datasets of NIST (certified values:
https://www.itl.nist.gov/div898/strd/lls/lls.shtml); their numbers are public domain.
"""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import scipy
import scipy.linalg
import sklearn
import torch
from sklearn import metrics, model_selection, preprocessing

torch.set_default_dtype(torch.float64)
rng = np.random.default_rng(7)


def columns(matrix):
    """Column-major, as the crate stores a matrix."""
    return np.asarray(matrix, dtype=float).T.ravel().tolist()


# --- update rules -------------------------------------------------------------------------------

START = [1.0, -3.0, 0.25, 0.0]
GRADIENTS = np.concatenate(
    [rng.normal(size=(6, 4)), 1e-9 * rng.normal(size=(3, 4)), 1e6 * rng.normal(size=(3, 4))]
).tolist()


def trajectory(optimizer, **options):
    x = torch.tensor(START, requires_grad=True)
    rule = optimizer([x], **options)
    values = []
    for gradient in GRADIENTS:
        x.grad = torch.tensor(gradient)
        rule.step()
        values.append(x.detach().tolist())
    return values


rules = {
    "descent": trajectory(torch.optim.SGD, lr=0.1),
    "momentum": trajectory(torch.optim.SGD, lr=0.1, momentum=0.9),
    "nesterov": trajectory(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": trajectory(torch.optim.Adam, lr=0.05),
    "adam_options": trajectory(torch.optim.Adam, lr=0.05, betas=(0.5, 0.8), eps=1e-3),
    "adam_w": trajectory(torch.optim.AdamW, lr=0.05),
    "adam_w_options": trajectory(torch.optim.AdamW, lr=0.05, weight_decay=0.3),
    "rms_prop": trajectory(torch.optim.RMSprop, lr=0.05),
    "rms_prop_options": trajectory(torch.optim.RMSprop, lr=0.05, alpha=0.7, eps=1e-3),
}


# --- schedules ----------------------------------------------------------------------------------

STEPS = 12


def factors(scheduler, **options):
    x = torch.zeros(1, requires_grad=True)
    rule = torch.optim.SGD([x], lr=1.0)
    schedule = scheduler(rule, **options)
    values = []
    for _ in range(STEPS + 1):
        values.append(rule.param_groups[0]["lr"])
        rule.step()
        schedule.step()
    return values


lr = torch.optim.lr_scheduler
schedules = {
    "cosine": factors(lr.CosineAnnealingLR, T_max=STEPS, eta_min=0.1),
    "linear": factors(lr.LinearLR, start_factor=1.0, end_factor=0.25, total_iters=STEPS),
    "geometric": factors(lr.ExponentialLR, gamma=0.01 ** (1 / STEPS)),
    "steps": factors(lr.StepLR, step_size=5, gamma=0.3),
    # A warm-up of 4 steps: 1/4, 2/4, 3/4, 1, then 1.
    "warm_up": factors(lr.LinearLR, start_factor=0.25, end_factor=1.0, total_iters=3),
}


# --- clipping -----------------------------------------------------------------------------------

parts = [torch.zeros(3), torch.zeros(2)]
for part in parts:
    part.requires_grad_()
before = [rng.normal(size=3).tolist(), (10 * rng.normal(size=2)).tolist()]
for part, gradient in zip(parts, before):
    part.grad = torch.tensor(gradient)
norm = torch.nn.utils.clip_grad_norm_(parts, 0.5)
clipping = {
    "gradients": before,
    "norm": norm.item(),
    "clipped": [part.grad.tolist() for part in parts],
}


# --- losses: sums over the batch ----------------------------------------------------------------

functional = torch.nn.functional
DIM, N = 4, 5
prediction = rng.normal(size=(N, DIM)) * 3
classes = np.array([0, 3, 1, 1, 2])
soft = rng.dirichlet(np.ones(DIM), size=N)
real = rng.normal(size=(N, DIM)) * 3
binary = rng.uniform(size=(N, DIM))
counts = rng.poisson(2.0, size=(N, DIM)).astype(float)
weights = np.array([0.5, 2.0, 1.0, 3.0])
variances = np.array([0.25, 2.0, 1.0, 0.5])
one_hot = np.eye(DIM)[classes]


def loss(target, function):
    x = torch.tensor(prediction, requires_grad=True)
    value = function(x, torch.tensor(target))
    value.backward()
    return {
        "target": np.asarray(target).ravel().tolist(),
        "value": value.item(),
        "gradient": x.grad.ravel().tolist(),
    }


labels = torch.tensor(classes)
sums = {"reduction": "sum"}
losses = {
    "squared": loss(real, lambda x, y: 0.5 * functional.mse_loss(x, y, **sums)),
    "weighted_squared": loss(
        real, lambda x, y: 0.5 * (torch.tensor(weights) * (x - y) ** 2).sum()
    ),
    "huber": loss(real, lambda x, y: functional.huber_loss(x, y, delta=1.5, **sums)),
    "cross_entropy": loss(one_hot, lambda x, _: functional.cross_entropy(x, labels, **sums)),
    "soft_targets": loss(soft, lambda x, y: functional.cross_entropy(x, y, **sums)),
    "class_weights": loss(
        one_hot,
        lambda x, _: functional.cross_entropy(x, labels, weight=torch.tensor(weights), **sums),
    ),
    "smoothing": loss(
        one_hot, lambda x, _: functional.cross_entropy(x, labels, label_smoothing=0.2, **sums)
    ),
    # PyTorch weighs each class's term of a soft target; the crate weighs the example by Σ w y.
    "class_weights_of_soft_targets_in_pytorch": loss(
        soft, lambda x, y: functional.cross_entropy(x, y, weight=torch.tensor(weights), **sums)
    ),
    "binary": loss(
        binary, lambda x, y: functional.binary_cross_entropy_with_logits(x, y, **sums)
    ),
    "poisson": loss(counts, lambda x, y: functional.poisson_nll_loss(x, y, full=False, **sums)),
    "kullback_leibler": loss(
        soft,
        lambda x, y: functional.kl_div(functional.log_softmax(x, dim=1), y, **sums),
    ),
    "gaussian": loss(
        real,
        lambda x, y: functional.gaussian_nll_loss(
            x, y, torch.tensor(variances).expand(N, DIM), eps=1e-12, **sums
        ),
    ),
}


# --- data: scikit-learn -------------------------------------------------------------------------

raw = np.stack(
    [
        rng.normal(size=9),
        1e6 + rng.normal(size=9),
        1e-8 * rng.normal(size=9),
        np.full(9, 14.62),
        rng.integers(0, 2, size=9),
    ],
    axis=1,
)
scaler = preprocessing.StandardScaler().fit(raw)
new = raw[:2] + 0.5
standardizer = {
    "values": raw.ravel().tolist(),
    "mean": scaler.mean_.tolist(),
    "deviation": np.sqrt(scaler.var_).tolist(),
    "transformed": scaler.transform(raw).ravel().tolist(),
    "new": new.ravel().tolist(),
    "new_transformed": scaler.transform(new).ravel().tolist(),
}


def stratified(sizes, fraction):
    y = np.repeat(np.arange(len(sizes)), sizes)
    split = model_selection.StratifiedShuffleSplit(1, test_size=fraction, random_state=0)
    _, test = next(split.split(y, y))
    return {
        "sizes": sizes,
        "fraction": fraction,
        "test": np.bincount(y[test], minlength=len(sizes)).tolist(),
    }


splits = {
    "stratified": [
        stratified([30, 50, 20], 0.2),
        stratified([40, 10], 0.3),
        stratified([12, 12, 12], 0.25),
    ],
    "folds": [
        {"n": n, "k": k, "sizes": [len(test) for _, test in model_selection.KFold(k).split(range(n))]}
        for n, k in [(7, 3), (10, 5), (11, 4), (5, 5)]
    ],
}

scores = rng.normal(size=(12, 3))
truth = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2, 2, 0])
outputs = rng.normal(size=(10, 2))
wanted = outputs + 0.3 * rng.normal(size=(10, 2))
measured = {
    "scores": scores.ravel().tolist(),
    "truth": truth.tolist(),
    "accuracy": metrics.accuracy_score(truth, scores.argmax(1)),
    "top_2": metrics.top_k_accuracy_score(truth, scores, k=2),
    # Rows true classes, columns predicted ones.
    "confusion": metrics.confusion_matrix(truth, scores.argmax(1)).tolist(),
    "outputs": outputs.ravel().tolist(),
    "wanted": wanted.ravel().tolist(),
    "rmse": float(np.sqrt(metrics.mean_squared_error(wanted, outputs))),
    "r_squared": metrics.r2_score(wanted, outputs, multioutput="raw_values").tolist(),
}


# --- least squares ------------------------------------------------------------------------------

x = rng.normal(size=(20, 3)) * [1.0, 100.0, 0.01] + [0.0, 1000.0, 3.0]
y = rng.normal(size=(20, 2)) + x @ rng.normal(size=(3, 2))
augmented = np.hstack([x, np.ones((20, 1))])
solution, *_ = scipy.linalg.lstsq(augmented, y, lapack_driver="gelsy")

LONGLEY = """
60323 83.0 234289 2356 1590 107608 1947
61122 88.5 259426 2325 1456 108632 1948
60171 88.2 258054 3682 1616 109773 1949
61187 89.5 284599 3351 1650 110929 1950
63221 96.2 328975 2099 3099 112075 1951
63639 98.1 346999 1932 3594 113270 1952
64989 99.0 365385 1870 3547 115094 1953
63761 100.0 363112 3578 3350 116219 1954
66019 101.2 397469 2904 3048 117388 1955
67857 104.6 419180 2822 2857 118734 1956
68169 108.4 442769 2936 2798 120445 1957
66513 110.8 444546 4681 2637 121950 1958
68655 112.6 482704 3813 2552 123366 1959
69564 114.2 502601 3931 2514 125368 1960
69331 115.7 518173 4806 2572 127852 1961
70551 116.9 554894 4007 2827 130081 1962
"""
longley = np.array([[float(v) for v in row.split()] for row in LONGLEY.split("\n") if row])
LONGLEY_CERTIFIED = [
    15.0618722713733,
    -0.358191792925910e-01,
    -2.02022980381683,
    -1.03322686717359,
    -0.511041056535807e-01,
    1829.15146461355,
    -3482258.63459582,
]

FILIP = """
0.8116 -6.860120914
0.9072 -4.324130045
0.9052 -4.358625055
0.9039 -4.358426747
0.8053 -6.955852379
0.8377 -6.661145254
0.8667 -6.355462942
0.8809 -6.118102026
0.7975 -7.115148017
0.8162 -6.815308569
0.8515 -6.519993057
0.8766 -6.204119983
0.8885 -5.853871964
0.8859 -6.109523091
0.8959 -5.79832982
0.8913 -5.482672118
0.8959 -5.171791386
0.8971 -4.851705903
0.9021 -4.517126416
0.909 -4.143573228
0.9139 -3.709075441
0.9199 -3.499489089
0.8692 -6.300769497
0.8872 -5.953504836
0.89 -5.642065153
0.891 -5.031376979
0.8977 -4.680685696
0.9035 -4.329846955
0.9078 -3.928486195
0.7675 -8.56735134
0.7705 -8.363211311
0.7713 -8.107682739
0.7736 -7.823908741
0.7775 -7.522878745
0.7841 -7.218819279
0.7971 -6.920818754
0.8329 -6.628932138
0.8641 -6.323946875
0.8804 -5.991399828
0.7668 -8.781464495
0.7633 -8.663140179
0.7678 -8.473531488
0.7697 -8.247337057
0.77 -7.971428747
0.7749 -7.676129393
0.7796 -7.352812702
0.7897 -7.072065318
0.8131 -6.774174009
0.8498 -6.478861916
0.8741 -6.159517513
0.8061 -6.835647144
0.846 -6.53165267
0.8751 -6.224098421
0.8856 -5.910094889
0.8919 -5.598599459
0.8934 -5.290645224
0.894 -4.974284616
0.8957 -4.64454848
0.9047 -4.290560426
0.9129 -3.885055584
0.9209 -3.408378962
0.9219 -3.13200249
0.7739 -8.726767166
0.7681 -8.66695597
0.7665 -8.511026475
0.7703 -8.165388579
0.7702 -7.886056648
0.7761 -7.588043762
0.7809 -7.283412422
0.7961 -6.995678626
0.8253 -6.691862621
0.8602 -6.392544977
0.8809 -6.067374056
0.8301 -6.684029655
0.8664 -6.378719832
0.8834 -6.065855188
0.8898 -5.752272167
0.8964 -5.132414673
0.8963 -4.811352704
0.9074 -4.098269308
0.9119 -3.66174277
0.9228 -3.2644011
"""
filip = [row.split() for row in FILIP.split("\n") if row]
FILIP_CERTIFIED = [
    -1467.48961422980,
    -2772.17959193342,
    -2316.37108160893,
    -1127.97394098372,
    -354.478233703349,
    -75.1242017393757,
    -10.8753180355343,
    -1.06221498588947,
    -0.670191154593408e-01,
    -0.246781078275479e-02,
    -0.402962525080404e-04,
]


def exact_polynomial(rows, degree):
    """Coefficients of least squares in rational arithmetic, to check that the data are right."""
    size = degree + 1
    sums = [Fraction(0)] * (2 * degree + 1)
    right = [Fraction(0)] * size
    for y_text, x_text in rows:
        x_value, y_value, power = Fraction(x_text), Fraction(y_text), Fraction(1)
        for j in range(2 * degree + 1):
            sums[j] += power
            if j < size:
                right[j] += power * y_value
            power *= x_value
    matrix = [[sums[i + j] for j in range(size)] + [right[i]] for i in range(size)]
    for i in range(size):
        for k in range(i + 1, size):
            factor = matrix[k][i] / matrix[i][i]
            matrix[k] = [a - factor * b for a, b in zip(matrix[k], matrix[i])]
    values = [Fraction(0)] * size
    for i in reversed(range(size)):
        rest = sum(matrix[i][j] * values[j] for j in range(i + 1, size))
        values[i] = (matrix[i][size] - rest) / matrix[i][i]
    return [float(v) for v in values]


def agree(found, certified, tolerance):
    for a, b in zip(found, certified):
        assert abs(a - b) <= tolerance * abs(b), (a, b)


agree(exact_polynomial(filip, 10), FILIP_CERTIFIED, 1e-13)
design = np.hstack([longley[:, 1:], np.ones((16, 1))])
agree(scipy.linalg.lstsq(design, longley[:, 0])[0], LONGLEY_CERTIFIED, 1e-8)

least_squares = {
    "x": x.ravel().tolist(),
    "y": y.ravel().tolist(),
    # W by rows of outputs, column-major, then the bias: as a dense layer stores it.
    "solution": solution[:3].ravel().tolist() + solution[3].tolist(),
    "longley": {
        "x": longley[:, 1:].ravel().tolist(),
        "y": longley[:, 0].tolist(),
        "certified": LONGLEY_CERTIFIED,
    },
    "filip": {
        "x": [float(row[1]) for row in filip],
        "y": [float(row[0]) for row in filip],
        "certified": FILIP_CERTIFIED,
    },
}

Path(__file__).with_name("semantics.json").write_text(
    json.dumps(
        {
            "made_by": {
                "torch": torch.__version__,
                "sklearn": sklearn.__version__,
                "scipy": scipy.__version__,
            },
            "start": START,
            "gradients": GRADIENTS,
            "rules": rules,
            "schedules": schedules,
            "clipping": clipping,
            "prediction": prediction.ravel().tolist(),
            "dim": DIM,
            "weights": weights.tolist(),
            "precisions": (1 / variances).tolist(),
            "losses": losses,
            "standardizer": standardizer,
            "splits": splits,
            "metrics": measured,
            "least_squares": least_squares,
        },
        indent=1,
    )
    + "\n"
)
