"""The methods on a small network, in NumPy and double precision, written from the published equations alone.

The network is ``W2 tanh(layernorm(W1 x + b1)) + b2`` on flattened images, with mean cross-entropy; its parameters are
[W1, b1, gamma, beta, W2, b2]. Noise is drawn with torch's generator, since it is data here.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from flatnext.seeds import mix

NORM = (2, 3)  # where gamma and beta stand among the parameters
LAYER_NORM_EPS = 1e-5


def forward_backward(weights, x, y):
    """Return mean loss, the gradients of the parameters, and that of the images."""
    w1, b1, gamma, beta, w2, b2 = weights
    flat = x.reshape(len(x), -1)
    a = flat @ w1.T + b1
    centred = a - a.mean(axis=1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + LAYER_NORM_EPS)
    normed = centred * inverse
    hidden = np.tanh(gamma * normed + beta)
    logits = hidden @ w2.T + b2
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    d_logits = np.exp(log_p)
    d_logits[rows, y] -= 1
    d_logits /= len(y)
    d_affine = (d_logits @ w2) * (1 - hidden**2)
    d_normed = d_affine * gamma
    d_a = inverse * (
        d_normed - d_normed.mean(axis=1, keepdims=True) - normed * (d_normed * normed).mean(axis=1, keepdims=True)
    )
    gradients = [
        d_a.T @ flat,
        d_a.sum(axis=0),
        (d_affine * normed).sum(axis=0),
        d_affine.sum(axis=0),
        d_logits.T @ hidden,
        d_logits.sum(axis=0),
    ]
    return -log_p[rows, y].mean(), gradients, (d_a @ w1).reshape(x.shape)


def norm(tensors):
    """Return the L2 norm of all tensors together."""
    return math.sqrt(sum(float((t**2).sum()) for t in tensors))


def project(delta, epsilon, ball):
    """Scale each tensor (`epsilon` may be a number for each), or all together, down to norm epsilon if it is longer."""
    lengths = [norm([d]) for d in delta] if ball == "tensor" else [norm(delta)] * len(delta)
    radii = np.broadcast_to(epsilon, len(delta))
    return [d * min(1.0, r / n) if n > 0 else d for d, r, n in zip(delta, radii, lengths, strict=True)]


def add(left, right, factor=1.0):
    return [a + f * b for a, b, f in zip(left, right, np.broadcast_to(factor, len(left)), strict=True)]


class Pass:
    """Passes over one batch: the gradient at perturbed weights or images. `losses` has the loss of every pass."""

    def __init__(self, weights, x, y, clip_norm, only):
        self.weights, self.x, self.y, self.clip_norm = weights, x, y, clip_norm
        self.chosen = NORM if only == "norm" else range(len(weights))
        self.losses = []

    def pick(self, tensors):
        return [tensors[i] for i in self.chosen]

    def __call__(self, delta=None, x=None):
        """Return the gradients at weights + delta (delta of the chosen ones alone), clipped, and the images'."""
        weights = list(self.weights)
        for i, d in zip(self.chosen, delta or [], strict=delta is not None):
            weights[i] = weights[i] + d
        loss, gradients, of_images = forward_backward(weights, self.x if x is None else x, self.y)
        self.losses.append(loss)
        if self.clip_norm is not None:  # as torch does it, with its 1e-6
            scale = min(1.0, self.clip_norm / (norm(gradients) + 1e-6))
            gradients = [g * scale for g in gradients]
        return gradients, of_images


def sgd(run, state):
    return run()[0]


def amp(run, state, *, epsilon, inner_lr, inner_iter, ball):
    """delta <- clip(delta + inner_lr grad(theta + delta), epsilon), inner_iter times: arXiv 2010.04925."""
    gradients, _ = run()
    delta = [np.zeros_like(w) for w in run.pick(run.weights)]
    for _ in range(inner_iter):
        delta = project(add(delta, run.pick(gradients), inner_lr), epsilon, ball)
        gradients, _ = run(delta)
    return gradients


def rmp(run, state, *, epsilon, inner_lr, ball):
    """Gaussian noise of the norm that AMP's delta has, a tensor or in all."""
    gradients, _ = run()
    wanted = project([inner_lr * g for g in gradients], epsilon, ball)
    generator = torch.Generator().manual_seed(mix(state["seed"], state["step"], 5))
    draw = [torch.randn(w.shape, generator=generator, dtype=state["noise"]) for w in run.weights]
    noise = [each.double().numpy() for each in draw]
    if ball == "global":
        delta = [n * norm(wanted) / norm(noise) for n in noise]
    else:
        delta = [n * norm([w]) / norm([n]) for n, w in zip(noise, wanted, strict=True)]
    return run(delta)[0]


def sam(run, state, *, rho):
    """delta = rho g / ||g||, the norm over all parameters: arXiv 2010.01412."""
    g = run.pick(run()[0])
    return run([rho * each / norm(g) for each in g])[0]


def asam(run, state, *, rho, eta):
    """delta = rho T^2 g / ||T g||, T = |theta| + eta: arXiv 2102.11600."""
    g, t = run.pick(run()[0]), [np.abs(w) + eta for w in run.pick(run.weights)]
    length = norm([a * b for a, b in zip(t, g, strict=True)])
    return run([rho * a**2 * b / length for a, b in zip(t, g, strict=True)])[0]


def momentum_amp(run, state, *, epsilon, inner_lr, ball):
    """delta = clip(-inner_lr v, epsilon), v the momentum buffer (after arXiv 2401.12033, which subtracts it)."""
    if state["velocity"][0] is None or state["momentum"] == 0:
        return run()[0]
    return run(project([-inner_lr * v for v in state["velocity"]], epsilon, ball))[0]


def adversarial(run, state, *, epsilon, inner_lr, inner_iter, norm):
    """PGD from the clean image, in pixels of [0, 1], with the pixels' range: arXiv 1412.6572, 1706.06083."""
    mean, std = (np.array(state[k]).reshape(1, -1, 1, 1) for k in ("mean", "std"))
    pixels = run.x * std + mean
    delta = np.zeros_like(pixels)
    gradients, of_images = run()
    for _ in range(inner_iter):
        slope = of_images / std  # by the chain rule: x = (pixel - mean) / std
        if norm == "linf":
            delta = np.clip(delta + inner_lr * epsilon * np.sign(slope), -epsilon, epsilon)
        else:
            delta = delta + inner_lr * epsilon * slope / lengths(slope)
            delta = delta * np.minimum(1.0, epsilon / lengths(delta))
        delta = np.clip(pixels + delta, 0, 1) - pixels
        gradients, of_images = run(x=(pixels + delta - mean) / std)
    return gradients


def lengths(images):
    return np.sqrt((images**2).sum(axis=(1, 2, 3), keepdims=True))


RULES = {
    "sgd": sgd,
    "amp": amp,
    "rmp": rmp,
    "sam": sam,
    "asam": asam,
    "momentum-amp": momentum_amp,
    "adversarial": adversarial,
}


def rule_of_step(name, settings, step, total_steps):
    """Return the rule's name and its settings at a step, by the interval and the schedule of the radius."""
    remaining = dict(settings)
    assert remaining.pop("ascent_share", 1.0) == 1.0  # tests/training/test_step.py is about other shares
    interval, schedule = remaining.pop("perturb_every", 1), remaining.pop("radius_schedule", "constant")
    remaining.pop("m_sharpness", None)
    remaining.pop("only", None)
    if step % interval:
        return "sgd", {}
    factor = {"constant": 1.0, "warmup": step / total_steps, "decay": 1 - step / total_steps}[schedule]
    radius = "rho" if "rho" in remaining else "epsilon"
    if radius in remaining:
        remaining[radius] *= factor
    off = any(np.all(remaining.get(key, 1) == 0) for key in (radius, "inner_lr", "inner_iter"))
    return ("sgd", {}) if off else (name, remaining)


def train(
    weights,
    batches,
    name,
    settings,
    *,
    lr,
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
    clip_norm=None,
    total_steps=None,
    seed=0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    noise=torch.float64,
    shares=1,
):
    """Return the weights after a step on each batch, and the losses of the passes that are reported.

    `noise` is the type in which random perturbations are drawn: torch gives other numbers for another.
    With `shares` every share of a batch (each `shares`-th row) perturbs by its own gradient: m-sharpness.
    """
    weights = [w.copy() for w in weights]
    velocity = [None] * len(weights)
    losses = []
    for step, (x, y) in enumerate(batches):
        state = {"velocity": velocity, "momentum": momentum, "seed": seed, "step": step, "noise": noise}
        state |= {"mean": mean, "std": std}
        rule, arguments = rule_of_step(name, settings, step, total_steps or len(batches))
        gradients, loss = [np.zeros_like(w) for w in weights], 0.0
        for first in range(shares):
            mine = slice(first, None, shares)
            run = Pass(weights, x[mine], y[mine], clip_norm, settings.get("only", "all"))
            share = len(y[mine]) / len(y)
            gradients = add(gradients, RULES[rule](run, state, **arguments), share)
            loss += share * run.losses[0]
        losses.append(loss)
        for i, g in enumerate(gradients):
            g = g + weight_decay * weights[i]
            velocity[i] = g if velocity[i] is None else momentum * velocity[i] + g
            weights[i] = weights[i] - np.broadcast_to(lr, len(weights))[i] * (
                g + momentum * velocity[i] if nesterov else velocity[i]
            )
    return weights, losses
