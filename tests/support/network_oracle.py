"""The networks in plain NumPy and double precision, written from their descriptions: an oracle for the tests."""

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


def shrink(x):
    """Average squares of 2x2 pixels."""
    n, channels, height, width = x.shape
    return x.reshape(n, channels, height // 2, 2, width // 2, 2).mean((3, 5))


class Oracle:
    """Forward passes of a network of any settings over a copy of a state dict.

    A training pass advances the copy's running statistics.
    """

    def __init__(self, settings, state, training):
        self.state = {name: np.array(value) for name, value in state.items()}
        self.settings, self.groups, self.training = settings, settings.cardinality, training
        self.blocks = {"resnext": self.bottleneck, "sk": self.bottleneck, "basic": self.basic, "preact": self.preact}

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

    def active(self, name, x):
        return np.maximum(self.norm(name, x), 0)

    def conv(self, name, x, stride=1, groups=1):
        weight = self.state[f"{name}.weight"]
        return convolve(x, weight, stride, weight.shape[2] // 2, groups)

    def shortcut(self, name, x, stride, channels):
        if f"{name}.shortcut.0.weight" in self.state:
            return self.norm(f"{name}.shortcut.1", self.conv(f"{name}.shortcut.0", x, stride))
        x = shrink(x) if stride == 2 else x
        return np.concatenate([x, np.zeros((len(x), channels - x.shape[1], *x.shape[2:]))], 1)

    def bottleneck(self, name, x, stride):
        y = self.active(f"{name}.bn1", self.conv(f"{name}.conv1", x))
        if self.settings.block == "sk":
            y = self.select(f"{name}.conv2", y, stride)
        else:
            y = self.active(f"{name}.bn2", self.conv(f"{name}.conv2", y, stride, self.groups))
        y = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", y))
        return np.maximum(y + self.shortcut(name, x, stride, y.shape[1]), 0)

    def basic(self, name, x, stride):
        y = self.active(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride))
        y = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y))
        return np.maximum(y + self.shortcut(name, x, stride, y.shape[1]), 0)

    def preact(self, name, x, stride):
        active = self.active(f"{name}.bn1", x)
        y = self.conv(f"{name}.conv1", active, stride)
        y = self.conv(f"{name}.conv2", self.active(f"{name}.bn2", y))
        if f"{name}.shortcut.weight" in self.state:
            return y + self.conv(f"{name}.shortcut", active, stride)
        return y + self.shortcut(name, x, stride, y.shape[1])

    def select(self, name, x, stride):
        dilated = np.zeros((*self.state[f"{name}.conv2.weight"].shape[:2], 5, 5))
        dilated[:, :, ::2, ::2] = self.state[f"{name}.conv2.weight"]
        narrow = self.active(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride, self.groups))
        wide = self.active(f"{name}.bn2", convolve(x, dilated, stride, 2, self.groups))
        pooled = (narrow + wide).mean((2, 3), keepdims=True)
        hidden = self.active(f"{name}.bn3", self.conv(f"{name}.fuse", pooled))
        a, b = np.split(np.exp(self.conv(f"{name}.select", hidden)), 2, axis=1)
        return (a * narrow + b * wide) / (a + b)

    def logits(self, pixels):
        x = self.conv("conv1", pixels)
        x = self.active("bn1", x) if "bn1.weight" in self.state else x
        for stage, count in enumerate(self.settings.blocks):
            for index in range(count):
                stride = 2 if stage and not index else 1
                x = self.blocks[self.settings.block](f"layer{stage + 1}.{index}", x, stride)
        x = self.active("bn", x) if "bn.weight" in self.state else x
        return x.mean((2, 3)) @ self.state["linear.weight"].T + self.state["linear.bias"]
