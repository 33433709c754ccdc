"""ResNeXt in plain NumPy and double precision, written from the architecture's description: an oracle for the tests.

The network's shape is read off the names and shapes of its state dict; the number of groups is given.
"""

import numpy as np

EPSILON, MOMENTUM = 1e-5, 0.1


def convolve(x, weight, stride=1, padding=0, groups=1):
    """Cross-correlate (N, C, H, W) with (O, C / groups, K, K): one matrix product a group and kernel position."""
    n, channels, height, width = x.shape
    out_channels, _, size, _ = weight.shape
    rows, columns = (height + 2 * padding - size) // stride + 1, (width + 2 * padding - size) // stride + 1
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    result = np.zeros((n, groups, out_channels // groups, rows * columns))
    for i in range(size):
        for j in range(size):
            window = padded[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            window = window[:, :, :rows, :columns].reshape(n, groups, channels // groups, rows * columns)
            result += weight[:, :, i, j].reshape(groups, out_channels // groups, channels // groups) @ window
    return result.reshape(n, out_channels, rows, columns)


class Oracle:
    """Forward passes over a copy of a state dict of arrays, whose running statistics a training pass advances."""

    def __init__(self, state, groups, training):
        self.state = {name: np.array(value) for name, value in state.items()}
        self.groups, self.training = groups, training

    def norm(self, name, x):
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            values = x.swapaxes(0, 1).reshape(x.shape[1], -1)
            batch_mean, batch_var = values.mean(1), values.var(1)
            unbiased = batch_var * values.shape[1] / (values.shape[1] - 1)
            self.state[f"{name}.running_mean"] = (1 - MOMENTUM) * mean + MOMENTUM * batch_mean
            self.state[f"{name}.running_var"] = (1 - MOMENTUM) * var + MOMENTUM * unbiased
            self.state[f"{name}.num_batches_tracked"] += 1
            mean, var = batch_mean, batch_var
        scale = self.state[f"{name}.weight"] / np.sqrt(var + EPSILON)
        return (x - mean[:, None, None]) * scale[:, None, None] + self.state[f"{name}.bias"][:, None, None]

    def block(self, name, x, stride):
        weight = {k: self.state[f"{name}.conv{k}.weight"] for k in (1, 2, 3)}
        y = np.maximum(self.norm(f"{name}.bn1", convolve(x, weight[1])), 0)
        y = np.maximum(self.norm(f"{name}.bn2", convolve(y, weight[2], stride, 1, self.groups)), 0)
        y = self.norm(f"{name}.bn3", convolve(y, weight[3]))
        if f"{name}.shortcut.0.weight" in self.state:
            x = self.norm(f"{name}.shortcut.1", convolve(x, self.state[f"{name}.shortcut.0.weight"], stride))
        return np.maximum(x + y, 0)

    def logits(self, images):
        x = np.maximum(self.norm("bn1", convolve(images, self.state["conv1.weight"])), 0)
        stage = 1
        while f"layer{stage}.0.conv1.weight" in self.state:
            index = 0
            while f"layer{stage}.{index}.conv1.weight" in self.state:
                x = self.block(f"layer{stage}.{index}", x, 2 if stage > 1 and index == 0 else 1)
                index += 1
            stage += 1
        return x.mean((2, 3)) @ self.state["linear.weight"].T + self.state["linear.bias"]
