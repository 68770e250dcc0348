"""Writes elementary.csv, the reference for the elementary functions in f64.

Columns: the function, the bits of x, then f(x) and f'(x), each as the bits of
the nearest f64 and of the nearest f64 to what is left. The second part is in
units of the last place of the first: near underflow a plain remainder would
itself underflow.
"""

import math
import random
import struct
from pathlib import Path

from mpmath import mp, mpf, cosh, erfc, exp, expm1, log1p, pi, sqrt, tanh

mp.dps = 400


def sigmoid(x):
    return 1 / (1 + exp(-x))


def normal(x):
    return erfc(-x / sqrt(mpf(2))) / 2


def density(x):
    return exp(-x * x / 2) / sqrt(2 * pi)


# Each with the places to look at closely: where the formulas change, where the
# derivative has its zero, where the result saturates, overflows or underflows.
FUNCTIONS = {
    "exp": (exp, exp, [math.log(2) / 2, 709.782712893384, -708.3964185322641, -745.1332191019412]),
    "tanh": (tanh, lambda x: 1 / cosh(x) ** 2, [math.log(2) / 4, 0.55, 19.0616, 354.2, 372.9, 373.26]),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x), [math.log(2) / 2, 36.74, 708.4, 745.13]),
    "softplus": (lambda x: log1p(exp(x)), sigmoid, [math.log(2) / 2, 36.74, 708.4, 745.13]),
    "silu": (
        lambda x: x * sigmoid(x),
        lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
        [1.2784645427610738, 1.2784645427610738 - 0.34, 1.2784645427610738 + 0.34, 36.74, 715.0, 751.75],
    ),
    "gelu": (
        lambda x: x * normal(x),
        lambda x: normal(x) + x * density(x),
        [0.7517915246935645, 1.503583049387129, 3.0, 8.3, 37.5, 38.58, 38.67],
    ),
}


def bits(x):
    return f"{struct.unpack('<Q', struct.pack('<d', x))[0]:016x}"


def nearest(x):
    """The f64 nearest to x, subnormal or infinite where it must be."""
    if x == 0:
        return 0.0
    sign, magnitude = (-1, -x) if x < 0 else (1, x)
    exponent = max(mp.mag(magnitude) - 53, -1074)
    try:
        return sign * math.ldexp(int(mp.nint(mp.ldexp(magnitude, -exponent))), exponent)
    except OverflowError:
        return sign * math.inf


def parts(x):
    high = nearest(x)
    if math.isinf(high):
        return high, 0.0
    return high, float((x - mpf(high)) / mpf(math.ulp(high)))


def arguments(generator, places):
    xs = [0.0]
    for exponent in range(-1074, 1024, 34):
        xs.append(math.ldexp(1 + generator.random(), exponent))
    for _ in range(40):
        xs.append(generator.uniform(0, 2))
    for _ in range(30):
        xs.append(generator.uniform(0, 40))
    for place in places:
        for distance in (0.0, 1e-15, 1e-12, 1e-8, 1e-4, 1e-2, 0.1):
            xs.append(place + distance * generator.random())
            xs.append(place - distance * generator.random())
    # Results from the last normal ones down to zero.
    for _ in range(20):
        xs.append(generator.uniform(places[-1] - 40, places[-1] + 1) if places[-1] > 40 else generator.uniform(37, 39))
    return sorted({sign * x for x in xs for sign in (-1.0, 1.0)})


def main():
    generator = random.Random(20240)
    with open(Path(__file__).with_suffix(".csv"), "w") as file:
        file.write("function,x_bits,value_hi_bits,value_lo_bits,derivative_hi_bits,derivative_lo_bits\n")
        for name, (value, derivative, places) in FUNCTIONS.items():
            for x in arguments(generator, [abs(place) for place in places]):
                row = [*parts(value(mpf(x))), *parts(derivative(mpf(x)))]
                file.write(",".join([name, bits(x), *map(bits, row)]) + "\n")


main()
