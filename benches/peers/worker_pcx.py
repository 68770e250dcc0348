"""pcx: a step of inference and one of learning from the same energy. `worker_pcx.py THREADS`."""

import importlib.metadata
import time

import jax
import jax.numpy as jnp
import optax
import pcx.functional as pxf
import pcx.nn as pxnn
import pcx.predictive_coding as pxc
import pcx.utils as pxu

import worker

NODES = pxu.M(pxc.VodeParam | pxc.VodeParam.Cache)


class Net(pxc.EnergyModule):
    def __init__(self, problem):
        super().__init__()
        self.layers = [pxnn.Linear(k, m) for k, m in zip(problem.widths, problem.widths[1:])]
        self.vodes = [pxc.Vode() for _ in self.layers]
        self.vodes[-1].h.frozen = True
        for layer, w, b in zip(self.layers, problem.weights, problem.biases):
            layer.nn.weight.set(jnp.array(w.T))
            layer.nn.bias.set(jnp.array(b))
        for vode, z in zip(self.vodes, [*problem.z, problem.y]):
            vode.h.set(jnp.array(z))

    def __call__(self, x):
        for t, (layer, vode) in enumerate(zip(self.layers, self.vodes)):
            a = layer(x)
            x = vode(a if t + 1 == len(self.layers) else jnp.tanh(a))
        return x


@pxf.vmap(NODES.to((None, 0)), in_axes=0, out_axes=None, axis_name="examples")
def energy(x, *, net):
    net(x)
    return jax.lax.psum(net.energy(), "examples")


@pxf.jit()
def step(x, *, net, weights, targets):
    moved = pxu.M_hasnot(pxc.VodeParam, frozen=True) | pxu.M(pxnn.LayerParam)
    with pxu.step(net, clear_params=pxc.VodeParam.Cache):
        value, gradient = pxf.value_and_grad(moved.to([False, True]))(energy)(x, net=net)
    targets.step(net, gradient["net"])
    weights.step(net, gradient["net"])
    return value


class Pcx:
    version = importlib.metadata.version("pcx") + f" (JAX {jax.__version__})"

    def variants(self, kind):
        return ["vmap"] if kind == "step" else []

    def run(self, problem, kind, variant, steps):
        net, x = Net(problem), jnp.array(problem.x)
        of = lambda rate, mask: pxu.Optim(lambda: optax.sgd(rate), mask(net))
        weights = of(problem.rate, pxu.M(pxnn.LayerParam))
        targets = of(problem.target_rate, pxu.M_hasnot(pxc.VodeParam, frozen=True))
        call = lambda: step(x, net=net, weights=weights, targets=targets)
        value = jax.block_until_ready(call())
        start = time.perf_counter()
        for _ in range(steps - 1):
            value = call()
        jax.block_until_ready((value, [v.h.get() for v in net.vodes], net.layers[0].nn.weight.get()))
        seconds = time.perf_counter() - start
        own = [layer.nn for layer in net.layers]
        final = lambda: (
            [n.weight.get().T for n in own],
            [n.bias.get() for n in own],
            [v.h.get() for v in net.vodes[:-1]],
        )
        return seconds, float(value), final


if __name__ == "__main__":
    worker.serve(Pcx())
