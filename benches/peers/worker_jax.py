"""JAX, jitted. `worker_jax.py THREADS`; the driver has set the affinity and XLA's flags."""

import time
from functools import partial

import jax
import jax.numpy as jnp

import digits
import worker


def layer(last, w, b, z):
    a = z @ w + b
    return a if last else jnp.tanh(a)


def energy(theta, z, x, y):
    inputs, targets = [x, *z], [*z, y]
    total = 0.0
    for t, ((w, b), z_t, target) in enumerate(zip(theta, inputs, targets)):
        residual = layer(t + 1 == len(theta), w, b, z_t) - target
        total += 0.5 * jnp.sum(residual * residual)
    return total


def composed(theta, x, y):
    current = x
    for t, (w, b) in enumerate(theta):
        current = layer(t + 1 == len(theta), w, b, current)
    residual = current - y
    return 0.5 * jnp.sum(residual * residual)


def descend(tree, gradient, rate):
    return jax.tree.map(lambda p, g: p - rate * g, tree, gradient)


def by_autodiff(state, x, y, rate, target_rate):
    theta, z = state
    value, (d_theta, d_z) = jax.value_and_grad(energy, argnums=(0, 1))(theta, z, x, y)
    return (descend(theta, d_theta, rate), descend(z, d_z, target_rate)), value


def by_hand(state, x, y, rate, target_rate):
    """The same with the gradients written out."""
    theta, z = state
    value, new_theta = 0.0, []
    gradients = [jnp.zeros_like(z_t) for z_t in z]
    for t, ((w, b), z_t, target) in enumerate(zip(theta, [x, *z], [*z, y])):
        last = t + 1 == len(theta)
        prediction = layer(last, w, b, z_t)
        residual = prediction - target
        value += 0.5 * jnp.sum(residual * residual)
        g = residual if last else residual * (1.0 - prediction * prediction)
        if not last:
            gradients[t] = gradients[t] - residual
        if t > 0:
            gradients[t - 1] = gradients[t - 1] + g @ w.T
        new_theta.append((w - rate * (z_t.T @ g), b - rate * g.sum(0)))
    return (new_theta, descend(z, gradients, target_rate)), value


def backprop(state, x, y, rate, target_rate):
    theta, z = state
    value, d_theta = jax.value_and_grad(composed)(theta, x, y)
    return (descend(theta, d_theta, rate), z), value


def cross_entropy(theta, x, y):
    """The mean over the examples."""
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(outputs(theta, x)), axis=1))


def outputs(theta, x):
    for t, (w, b) in enumerate(theta):
        x = layer(t + 1 == len(theta), w, b, x)
    return x


def adam(state, x, y, steps):
    """A step of Adam; the rate is on a half cosine over `steps` steps."""
    theta, first, second, count = state
    gradient = jax.grad(cross_entropy)(theta, x, y)
    b1, b2, epsilon = digits.ADAM["first"], digits.ADAM["second"], digits.ADAM["epsilon"]
    cosine = (1 + jnp.cos(jnp.pi * count / steps)) / 2
    rate = digits.RATE * (digits.END + (1 - digits.END) * cosine)
    count = count + 1
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, gradient)
    c1, c2 = 1 - b1**count, 1 - b2**count
    move = lambda p, m, v: p - rate * (m / c1) / (jnp.sqrt(v / c2) + epsilon)
    return jax.tree.map(move, theta, first, second), first, second, count


@partial(jax.jit, static_argnames="batch", donate_argnums=0)
def train(state, x, y, key, steps, epochs, batch):
    """All epochs in one call; the last batch of an epoch takes what is left."""
    n = len(x)

    def epoch(_, carry):
        state, key = carry
        if batch >= n:
            return adam(state, x, y, steps), key
        key, own = jax.random.split(key)
        order = jax.random.permutation(own, n)
        whole = n // batch * batch
        visit = lambda state, chosen: (adam(state, x[chosen], y[chosen], steps), None)
        state, _ = jax.lax.scan(visit, state, order[:whole].reshape(-1, batch))
        if whole < n:
            state, _ = visit(state, order[whole:])
        return state, key

    return jax.lax.fori_loop(0, epochs, epoch, (state, key))


STEPS = {
    "step": {"autodiff": by_autodiff, "by hand": by_hand},
    "backprop": {"autodiff": backprop},
}


class Jax:
    version = jax.__version__

    def __init__(self):
        self.compiled = {}

    def variants(self, kind):
        return [f"{how}, {loop}" for how in STEPS[kind] for loop in ("calls", "loop in jit")]

    def function(self, kind, variant):
        """(state, x, y, rates, steps) -> (state, value)."""
        key = (kind, variant)
        if key not in self.compiled:
            how, loop = variant.split(", ")
            step = STEPS[kind][how]
            if loop == "calls":
                call = jax.jit(step, donate_argnums=0)

                def many(state, x, y, rate, target_rate, steps):
                    value = None
                    for _ in range(steps):
                        state, value = call(state, x, y, rate, target_rate)
                    return state, value

            else:

                @partial(jax.jit, donate_argnums=0)
                def many(state, x, y, rate, target_rate, steps):
                    body = lambda _, carry: step(carry[0], x, y, rate, target_rate)
                    return jax.lax.fori_loop(0, steps, body, (state, jnp.float32(0)))

            self.compiled[key] = many
        return self.compiled[key]

    def run(self, problem, kind, variant, steps):
        theta = [(jnp.array(w), jnp.array(b)) for w, b in zip(problem.weights, problem.biases)]
        state = (theta, [jnp.array(z) for z in problem.z])
        x, y = jnp.array(problem.x), jnp.array(problem.y)
        rates = jnp.float32(problem.rate), jnp.float32(problem.target_rate)
        many = self.function(kind, variant)
        jax.block_until_ready((state, x, y, rates))
        state, value = jax.block_until_ready(many(state, x, y, *rates, 1))
        start = time.perf_counter()
        if steps > 1:
            state, value = jax.block_until_ready(many(state, x, y, *rates, steps - 1))
        seconds = time.perf_counter() - start
        final = lambda: ([w for w, _ in state[0]], [b for _, b in state[0]], state[1])
        return seconds, float(value), final

    digits_variants = ["backprop"]

    def digits(self, request):
        task = digits.Task(request)
        theta = [(jnp.array(w), jnp.array(b)) for w, b in task.theta]
        zeros = lambda: jax.tree.map(jnp.zeros_like, theta)
        state, key = (theta, zeros(), zeros(), jnp.float32(0)), jax.random.key(task.seed)
        x, y, steps = jnp.array(task.x), jnp.array(task.y), jnp.float32(task.steps)
        accuracies = []
        jax.block_until_ready((state, x, y))
        start = time.perf_counter()
        if task.until is None:
            jax.block_until_ready(train(state, x, y, key, steps, task.epochs, task.batch))
        else:
            for _ in range(task.epochs):
                state, key = train(state, x, y, key, steps, 1, task.batch)
                accuracies.append(task.accuracy(outputs(state[0], task.test_x)))
                if accuracies[-1] >= task.until:
                    break
        return {"seconds": time.perf_counter() - start, "accuracies": accuracies}


if __name__ == "__main__":
    worker.serve(Jax())
