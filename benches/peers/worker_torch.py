"""PyTorch on the CPU. `worker_torch.py THREADS`; the driver has set the affinity."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import conv2d, cross_entropy, linear, scaled_dot_product_attention

import digits
import worker


def layer(last, w, b, z):
    a = linear(z, w, b)
    return a if last else torch.tanh(a)


def energy(weights, biases, z, x, y):
    total = 0.0
    depth = len(weights)
    for t, (w, b, z_t, target) in enumerate(zip(weights, biases, [x, *z], [*z, y])):
        residual = layer(t + 1 == depth, w, b, z_t) - target
        total = total + 0.5 * (residual * residual).sum()
    return total


def composed(weights, biases, x, y):
    current = x
    for t, (w, b) in enumerate(zip(weights, biases)):
        current = layer(t + 1 == len(weights), w, b, current)
    residual = current - y
    return 0.5 * (residual * residual).sum()


def by_hand(weights, biases, z, x, y):
    """E and its gradients, written out."""
    value, d_weights, d_biases = 0.0, [], []
    d_z = [None] * len(z)
    depth = len(weights)
    for t, (w, b, z_t, target) in enumerate(zip(weights, biases, [x, *z], [*z, y])):
        last = t + 1 == depth
        prediction = layer(last, w, b, z_t)
        residual = prediction - target
        flat = residual.view(-1)
        value = value + 0.5 * torch.dot(flat, flat)
        g = residual if last else torch.ops.aten.tanh_backward(residual, prediction)
        d_weights.append(g.T @ z_t)
        d_biases.append(g.sum(0))
        if t > 0:
            # What z_t gets as the target of the layer below stands there already.
            d_z[t - 1] = torch.addmm(d_z[t - 1], g, w)
        if not last:
            d_z[t] = -residual
    return value, d_weights, d_biases, d_z


def composed_by_hand(weights, biases, x, y):
    """The composed loss and its gradients, written out."""
    depth = len(weights)
    inputs = [x]
    for t, (w, b) in enumerate(zip(weights, biases)):
        inputs.append(layer(t + 1 == depth, w, b, inputs[t]))
    g = inputs[-1] - y
    flat = g.view(-1)
    value = 0.5 * torch.dot(flat, flat)
    d_weights, d_biases = [None] * depth, [None] * depth
    for t in reversed(range(depth)):
        d_weights[t] = g.T @ inputs[t]
        d_biases[t] = g.sum(0)
        if t > 0:
            g = torch.ops.aten.tanh_backward(g @ weights[t], inputs[t])
    return value, d_weights, d_biases


def outputs(weights, biases, x):
    for t, (w, b) in enumerate(zip(weights, biases)):
        x = layer(t + 1 == len(weights), w, b, x)
    return x


def mean_cross_entropy(weights, biases, x, y):
    return cross_entropy(outputs(weights, biases, x), y)


def without_autograd(call):
    def run():
        with torch.inference_mode():
            return call()

    return run


def convolution(settings, variant, what, z, theta, u):
    """A call of a convolution, whose arrays are written with the axes in reverse order."""
    (c, h, w), m = settings["input"], settings["channels"]
    k, p = settings["kernel"], settings["padding"]
    layout = torch.channels_last if variant == "channels last" else torch.contiguous_format
    own = lambda a, *shape: a.reshape(shape).permute(0, 3, 2, 1).contiguous(memory_format=layout)
    z, u = own(z, -1, w, h, c), own(u, -1, w + 2 * p - k + 1, h + 2 * p - k + 1, m)
    weights = theta[:-m].reshape(k, k, c, m).permute(3, 2, 1, 0).contiguous(memory_format=layout)
    bias = theta[-m:].clone()
    ones, zeros, pads = [1, 1], [0, 0], [p, p]
    backward = torch.ops.aten.convolution_backward
    return without_autograd({
        "forward": lambda: [conv2d(z, weights, bias, padding=p)],
        "vjp": lambda: backward(u, z, weights, [m], ones, pads, ones, False, zeros, 1, [True] * 3),
    }[what])


def layer_norm(settings, variant, what, z, theta, u):
    d, length = settings["dim"], settings["length"]
    z, u = z.reshape(-1, length, d), u.reshape(-1, length, d)
    gain, bias = theta[:d].clone(), theta[d:].clone()
    _, mean, deviation = torch.native_layer_norm(z, [d], gain, bias, 1e-5)
    backward = torch.ops.aten.native_layer_norm_backward
    return without_autograd({
        "forward": lambda: [torch.native_layer_norm(z, [d], gain, bias, 1e-5)[0]],
        "vjp": lambda: backward(u, z, [d], mean, deviation, gain, bias, [True] * 3),
    }[what])


def attention(settings, variant, what, z, theta, u):
    """A call of self-attention; its products are by autograd, from one graph."""
    d, length, heads = settings["dim"], settings["length"], settings["heads"]
    z, u = z.reshape(-1, length, d).clone(), u.reshape(-1, length, d)
    w, b, v, c = torch.split(theta, [3 * d * d, 3 * d, d * d, d])
    w, v = w.reshape(d, 3 * d).T.contiguous(), v.reshape(d, d).T.contiguous()
    own = [a.clone().requires_grad_() for a in (z, w, b, v, c)]

    def output(z, w, b, v, c):
        apart = lambda a: a.reshape(-1, length, heads, d // heads).transpose(1, 2)
        query, key, value = (apart(part) for part in linear(z, w, b).chunk(3, dim=2))
        if variant == "fused":
            mixed = scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(2, 3) * (d // heads) ** -0.5
            mixed = scores.softmax(3) @ value
        return linear(mixed.transpose(1, 2).reshape(-1, length, d), v, c)

    if what == "forward":
        return without_autograd(lambda: [output(*(a.detach() for a in own))])
    result = output(*own)
    return lambda: torch.autograd.grad(result, own, u, retain_graph=True)


def flat(settings, results):
    """The results as layerwise stores them, θ's gradients in one array."""
    if settings["kind"] == "Convolution":
        first = results[0].permute(0, 3, 2, 1)
        rest = [results[1].permute(3, 2, 1, 0), results[2]] if len(results) > 1 else []
    else:
        first, rest = results[0], [a.T if a.dim() == 2 else a for a in results[1:]]
    return [first, torch.cat([a.reshape(-1) for a in rest])] if rest else [first]


class Torch:
    version = torch.__version__

    def __init__(self):
        self.compiled = {}

    def variants(self, kind):
        return ["autograd", "by hand", "by hand, compiled", "autograd, compiled"]

    def step(self, kind, variant):
        """(weights, biases, z, x, y, rates) -> value, in place."""
        if (kind, variant) in self.compiled:
            return self.compiled[kind, variant]
        how, _, compiled = variant.partition(", ")
        maybe = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        if how == "autograd":
            function = maybe(energy if kind == "step" else composed)

            def step(weights, biases, z, x, y, rate, target_rate):
                if kind == "step":
                    value = function(weights, biases, z, x, y)
                    gradients = torch.autograd.grad(value, [*weights, *biases, *z])
                else:
                    value = function(weights, biases, x, y)
                    gradients = torch.autograd.grad(value, [*weights, *biases])
                theta = [*weights, *biases]
                with torch.no_grad():
                    torch._foreach_add_(theta, gradients[: len(theta)], alpha=-rate)
                    if kind == "step":
                        torch._foreach_add_(z, gradients[len(theta) :], alpha=-target_rate)
                return value

        else:

            def plain(weights, biases, z, x, y, rate, target_rate):
                if kind == "step":
                    value, d_weights, d_biases, d_z = by_hand(weights, biases, z, x, y)
                    torch._foreach_add_(z, d_z, alpha=-target_rate)
                else:
                    value, d_weights, d_biases = composed_by_hand(weights, biases, x, y)
                torch._foreach_add_([*weights, *biases], [*d_weights, *d_biases], alpha=-rate)
                return value

            inner = maybe(plain)

            def step(*arguments):
                with torch.inference_mode():
                    return inner(*arguments)

        self.compiled[kind, variant] = step
        return step

    def run(self, problem, kind, variant, steps):
        autograd = variant.startswith("autograd")
        # The layout of torch.nn.Linear: out x in.
        own = lambda a: torch.tensor(a).contiguous().requires_grad_(autograd)
        weights = [own(w.T.copy()) for w in problem.weights]
        biases, z = [own(b) for b in problem.biases], [own(a) for a in problem.z]
        x, y = torch.tensor(problem.x), torch.tensor(problem.y)
        step = self.step(kind, variant)
        call = lambda: step(weights, biases, z, x, y, problem.rate, problem.target_rate)
        value = call()
        float(value.detach())
        start = time.perf_counter()
        for _ in range(steps - 1):
            value = call()
        value = float(value.detach())
        seconds = time.perf_counter() - start
        out = lambda a: a.detach().numpy()
        final = lambda: ([out(w).T for w in weights], [out(b) for b in biases], [out(a) for a in z])
        return seconds, value, final

    layer_variants = {
        "Convolution": ["contiguous", "channels last"],
        "LayerNorm": ["native"],
        "Attention": ["fused", "written out"],
    }

    def layer(self, request):
        """Seconds of one call, the first of them apart; without a time, the results are written."""
        folder, settings = Path(request["folder"]), request["layer"]
        read = lambda name: torch.from_numpy(np.fromfile(folder / f"{name}.f32", dtype="<f4"))
        make = {"Convolution": convolution, "LayerNorm": layer_norm, "Attention": attention}[settings["kind"]]
        call = make(settings, request["variant"], request["what"], read("z"), read("theta"), read("u"))
        results, seconds = call(), request["seconds"]
        if seconds is None:
            names = ["output"] if request["what"] == "forward" else ["d_z", "d_theta"]
            for name, array in zip(names, flat(settings, results)):
                array.detach().contiguous().numpy().astype("<f4").tofile(folder / f"{name}.f32")
            return 0.0
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < seconds:
            call()
            count += 1
        return (time.perf_counter() - start) / count

    digits_variants = ["backprop, eager", "backprop, compiled"]

    def digits(self, request):
        task = digits.Task(request)
        own = lambda a: torch.tensor(a).contiguous().requires_grad_()
        weights = [own(w.T.copy()) for w, _ in task.theta]
        biases = [own(b) for _, b in task.theta]
        b1, b2, epsilon = digits.ADAM["first"], digits.ADAM["second"], digits.ADAM["epsilon"]
        adam = torch.optim.Adam([*weights, *biases], betas=(b1, b2), eps=epsilon, fused=True)
        x, y, test = torch.tensor(task.x), torch.tensor(task.y), torch.tensor(task.test_x)
        torch.manual_seed(task.seed)
        loss = mean_cross_entropy
        if task.variant.endswith("compiled"):
            key = ("digits", task.batch)
            self.compiled.setdefault(key, torch.compile(loss, dynamic=False))
            loss = self.compiled[key]
        accuracies, count = [], 0
        start = time.perf_counter()
        for _ in range(task.epochs):
            whole = task.batch >= task.n
            order = [slice(None)] if whole else torch.randperm(task.n).split(task.batch)
            for chosen in order:
                adam.param_groups[0]["lr"] = task.rate(count)
                count += 1
                adam.zero_grad()
                loss(weights, biases, x[chosen], y[chosen]).backward()
                adam.step()
            if task.until is not None:
                with torch.no_grad():
                    accuracies.append(task.accuracy(outputs(weights, biases, test)))
                if accuracies[-1] >= task.until:
                    break
        return {"seconds": time.perf_counter() - start, "accuracies": accuracies}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    worker.serve(Torch())
