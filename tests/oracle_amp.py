"""AMP and SGD on a two-layer network, in NumPy and double precision, written from the equations alone."""

from __future__ import annotations

import math

import numpy as np


def loss_and_gradients(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Return mean cross-entropy and its gradients for logits = W2 tanh(W1 x + b1) + b2."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(x @ w1.T + b1)
    logits = hidden @ w2.T + b2
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    d_logits = np.exp(log_p)
    d_logits[rows, y] -= 1
    d_logits /= len(y)
    d_pre = (d_logits @ w2) * (1 - hidden**2)
    gradients = [d_pre.T @ x, d_pre.sum(axis=0), d_logits.T @ hidden, d_logits.sum(axis=0)]
    return -log_p[rows, y].mean(), gradients


def clipped_pass(weights, x, y, clip_norm):
    """Return loss and gradients, the gradients' joint norm clipped."""
    loss, gradients = loss_and_gradients(weights, x, y)
    if clip_norm is not None:
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        gradients = [g * min(1.0, clip_norm / (norm + 1e-6)) for g in gradients]
    return loss, gradients


def train(weights, batches, *, method, lr, momentum, nesterov, weight_decay, clip_norm):
    """Return the weights and first-pass losses after a step on each batch.

    `method` is None for plain training, else a dict with epsilon, inner_lr, inner_iter and ball.
    """
    weights = [w.copy() for w in weights]
    velocity = [None] * len(weights)
    losses = []
    for x, y in batches:
        loss, gradients = clipped_pass(weights, x, y, clip_norm)
        losses.append(loss)
        if method is not None:
            delta = [np.zeros_like(w) for w in weights]
            for _ in range(method["inner_iter"]):
                delta = [d + method["inner_lr"] * g for d, g in zip(delta, gradients, strict=True)]
                delta = project(delta, method["epsilon"], method["ball"])
                _, gradients = clipped_pass([w + d for w, d in zip(weights, delta, strict=True)], x, y, clip_norm)
        for i, g in enumerate(gradients):
            g = g + weight_decay * weights[i]
            velocity[i] = g if velocity[i] is None else momentum * velocity[i] + g
            weights[i] = weights[i] - lr * (g + momentum * velocity[i] if nesterov else velocity[i])
    return weights, losses


def project(delta, epsilon, ball):
    """Scale each tensor, or all of them together, down to norm epsilon."""
    norms = [np.sqrt((d**2).sum()) for d in delta]
    if ball == "global":
        norms = [np.sqrt(sum(n**2 for n in norms))] * len(delta)
    return [d * min(1.0, epsilon / (n + 1e-12)) for d, n in zip(delta, norms, strict=True)]
