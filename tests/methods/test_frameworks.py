"""The methods in Lightning, Accelerate and the `Trainer` of transformers: the same bits as in a loop of one's own.

By hand, since the pinned environment has none of them:

    pip install --no-deps --target FOLDER pytorch-lightning lightning-utilities torchmetrics
    pip install --no-deps --target FOLDER accelerate transformers tokenizers regex
    PYTHONPATH=FOLDER python -m pytest tests/methods/test_frameworks.py
"""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
from methods_table import bn_network, image_batches, same_bits
from torch.nn import functional as F

import flatnext
from flatnext.errors import InputError

pytestmark = pytest.mark.filterwarnings("default")  # theirs

BATCHES = image_batches(4)
EPOCHS, CLIP = 3, 0.5
SGD = {"lr": 0.1, "momentum": 0.9, "base_optimizer": torch.optim.SGD}
OPTIMIZERS = {
    "amp": functools.partial(flatnext.AMP, epsilon=0.05, **SGD),
    "sam": functools.partial(flatnext.SAM, rho=0.05, **SGD),
    "asam": functools.partial(flatnext.ASAM, rho=0.5, **SGD),
}
methods = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def schedule(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))


def own_loop(make, precision="32-true"):
    """Return the network after the epochs; each closure zeroes, and clips, as Lightning's does."""
    model = bn_network()
    optimizer = make(model.parameters())
    scheduler = schedule(optimizer)
    for _ in range(EPOCHS):
        for images, labels in BATCHES:

            def closure(images=images, labels=labels):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext():
                    loss = F.cross_entropy(model(images), labels)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                return loss

            optimizer.step(closure)
        scheduler.step()
    return model


def state(model):
    return list(model.state_dict().values())


def lightning(make, epochs=EPOCHS, resume=None, **settings):
    """Return the network and the trainer after the epochs."""
    pl = pytest.importorskip("pytorch_lightning", reason="needs Lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = bn_network()

        def training_step(self, batch, _):
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = make(self.network.parameters())
            return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer)}

    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", gradient_clip_val=CLIP, **quiet, **settings)
    module = Module()
    trainer.fit(module, torch.utils.data.DataLoader(BATCHES, batch_size=None), ckpt_path=resume)
    return module.network, trainer


@methods
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_trains_as_a_loop_of_ones_own(make, precision):
    network, trainer = lightning(make, precision=precision)
    assert trainer.global_step == EPOCHS * len(BATCHES)
    assert same_bits(state(network), state(own_loop(make, precision=precision)))


@methods
def test_a_checkpoint_of_lightning_goes_on_to_the_bit(make, tmp_path):
    _, trainer = lightning(make, epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    network, _ = lightning(make, resume=tmp_path / "two.ckpt")
    assert same_bits(state(network), state(own_loop(make)))


@methods
def test_accumulation_of_lightning_is_refused(make):
    with pytest.raises(InputError, match="run all micro-batches in the closure"):
        lightning(make, accumulate_grad_batches=2)


@methods
def test_accelerate_trains_as_a_loop_of_ones_own(make):
    accelerate = pytest.importorskip("accelerate", reason="needs Accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = bn_network()
    optimizer = make(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    scheduler = schedule(optimizer.optimizer)
    for _ in range(EPOCHS):
        for images, labels in BATCHES:

            def closure(images=images, labels=labels):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), CLIP)
                return loss

            optimizer.step(closure)
        scheduler.step()
    assert same_bits(state(model), state(own_loop(make)))


def transformers_trainer(optimizer, model, folder, rule=None):
    """Return a `Trainer`, of which `rule` computes the gradient, and the batches that it sees."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    seen = []

    class Trainer(transformers.Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append(inputs)
            step = super().training_step

            def closure():
                model.zero_grad()
                return step(model, inputs, num_items_in_batch)

            return closure() if rule is None else rule(closure, model.parameters(), model.buffers())

    arguments = transformers.TrainingArguments(
        str(folder),
        use_cpu=True,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=6,
        max_grad_norm=CLIP,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    images, labels = (torch.cat(part) for part in zip(*BATCHES, strict=True))
    data = [{"images": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    return Trainer(model=model, args=arguments, train_dataset=data, optimizers=(optimizer, None)), seen


class WithLoss(torch.nn.Module):
    """A network that returns its loss, as those of transformers do."""

    def __init__(self):
        super().__init__()
        self.network = bn_network()

    def forward(self, images, labels):
        logits = self.network(images)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_a_rule_in_the_training_step_of_transformers(tmp_path):
    rule = functools.partial(flatnext.amp, epsilon=0.05)
    model, expected = WithLoss(), WithLoss()
    trainer, batches = transformers_trainer(torch.optim.SGD(model.parameters(), lr=0.1), model, tmp_path, rule)
    trainer.train()
    assert len(batches) == EPOCHS * len(BATCHES)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for batch in batches:

        def closure(batch=batch):
            expected.zero_grad()
            loss = expected(**batch)["loss"]
            loss.backward()
            return loss

        rule(closure, expected.parameters(), expected.buffers())
        torch.nn.utils.clip_grad_norm_(expected.parameters(), CLIP)
        optimizer.step()
    assert same_bits(state(model), state(expected))


@methods
def test_the_trainer_of_transformers_gives_no_closure(make, tmp_path):
    model = WithLoss()
    trainer, _ = transformers_trainer(make(model.parameters()), model, tmp_path)
    with pytest.raises(InputError, match="needs a closure"):
        trainer.train()
