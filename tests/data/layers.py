"""Writes layers.json: outputs and gradients of PyTorch's layers, for tests/suite/layers/pytorch.rs.

    pip install torch numpy && python3 layers.py

Inputs, weights and cotangents are `numbers`, which the test makes again. Arrays are written as the crate
stores them: the first index fastest.
"""

import json
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, max_pool2d

torch.set_default_dtype(torch.float64)
EXAMPLES = 2


def numbers(seed, *shape):
    """Eighths, in the crate's order of this shape in PyTorch's."""
    count = 1
    for extent in shape:
        count *= extent
    values = [((7 * i * i + 3 * i + 5 * seed) % 23 - 11) / 8 for i in range(count)]
    return torch.tensor(values).reshape(shape[::-1]).permute(*range(len(shape))[::-1]).contiguous()


def flat(tensor):
    """Reverses the axes, so that the first index is fastest."""
    return tensor.detach().permute(*range(tensor.dim())[::-1]).reshape(-1).tolist()


def images(seed, image):
    """Examples are the slowest axis in both."""
    return torch.stack([numbers(seed + i, *image) for i in range(EXAMPLES)])


def examples(tensor):
    return [value for example in tensor for value in flat(example)]


def case(settings, function, image, *parameters):
    """The output, and the gradients of ⟨u, output⟩."""
    z = images(1, image).requires_grad_()
    parameters = [p.requires_grad_() for p in parameters]
    output = function(z, *parameters)
    u = images(4, output.shape[1:])
    (output * u).sum().backward()
    return settings | {
        "input": image,
        "shape": list(output.shape[1:]),
        "output": examples(output),
        "d_input": examples(z.grad),
        "d_parameters": [value for p in parameters for value in flat(p.grad)],
    }


def convolution(image, out, kernel, stride, padding, dilation, groups):
    weights = numbers(2, out, image[0] // groups, *kernel)
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    settings = dict(channels=out, kernel=kernel) | options
    return case(settings, lambda z, w, b: conv2d(z, w, b, **options), image, weights, numbers(3, out))


def transposed(image, out, kernel, stride, padding, dilation, groups, more):
    weights = numbers(2, image[0], out // groups, *kernel)
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, output_padding=more)
    settings = dict(channels=out, kernel=kernel) | options
    function = lambda z, w, b: conv_transpose2d(z, w, b, **options)
    return case(settings, function, image, weights, numbers(3, out))


def maxima(image, kernel, stride, padding, dilation):
    options = dict(stride=stride, padding=padding, dilation=dilation)
    return case(dict(kernel=kernel) | options, lambda z: max_pool2d(z, kernel, **options), image)


def means(image, kernel, stride, padding, count_include_pad):
    options = dict(stride=stride, padding=padding, count_include_pad=count_include_pad)
    return case(dict(kernel=kernel) | options, lambda z: avg_pool2d(z, kernel, **options), image)


result = {
    "torch": torch.__version__,
    "Conv2d": [
        convolution([2, 5, 4], 3, [3, 2], [2, 1], [1, 0], [1, 1], 1),
        convolution([1, 6, 5], 2, [5, 3], [1, 2], [2, 1], [1, 1], 1),
        convolution([3, 4, 6], 2, [2, 3], [1, 1], [0, 2], [2, 2], 1),
        convolution([4, 5, 3], 6, [3, 2], [3, 1], [1, 1], [1, 2], 2),
        convolution([3, 4, 4], 6, [2, 2], [2, 1], [1, 0], [1, 1], 3),
    ],
    "ConvTranspose2d": [
        transposed([2, 3, 2], 3, [3, 2], [2, 1], [1, 0], [1, 1], 1, [0, 0]),
        transposed([3, 2, 3], 2, [2, 3], [2, 3], [0, 1], [1, 1], 1, [1, 2]),
        transposed([4, 2, 3], 6, [2, 2], [2, 1], [1, 1], [1, 2], 2, [0, 1]),
        transposed([2, 2, 2], 2, [1, 2], [3, 1], [0, 0], [1, 3], 1, [2, 2]),
    ],
    "MaxPool2d": [
        maxima([3, 4, 6], [2, 2], [2, 2], [0, 0], [1, 1]),
        maxima([2, 5, 4], [3, 2], [2, 1], [1, 0], [1, 1]),
        maxima([1, 6, 5], [2, 3], [1, 2], [1, 1], [2, 1]),
    ],
    "AveragePool2d": [
        means([3, 4, 6], [2, 2], [2, 2], [0, 0], True),
        means([2, 5, 4], [3, 2], [2, 1], [1, 1], True),
        means([2, 5, 4], [3, 2], [2, 1], [1, 1], False),
    ],
}
Path(__file__).with_name("layers.json").write_text(json.dumps(result) + "\n")
