"""What a run does where its loss is not finite: it stops, or goes back and on with a lower learning rate.

The way back is to the last end of an epoch, whose checkpoint is kept for that, and not to the last checkpoint: those
within an epoch are written when a clock or a signal says so, and a run that was stopped would end as another. At the
end of an epoch all weights are finite, and the loss is not huge.
"""

from __future__ import annotations

from contextlib import suppress

from flatnext.errors import InputError
from flatnext.runs.records import Epoch, Failure, Rollback
from flatnext.training.checkpoint import LAST, keep_checkpoint, kept_path, read_pair
from flatnext.training.metric_sums import NonFiniteLossError
from flatnext.training.optimizer import fuse
from flatnext.training.run_state import RunState

FACTOR = 0.5
"""What a rollback multiplies the learning rate by."""

MOST = 3
"""Rollbacks of a run."""

LARGEST_LOSS = 1000.0
"""An epoch with a larger mean loss is not good to go back to, and counts as one whose loss is not finite.

Chance has log(classes), which is below 10. Weights that give so much more are on their way to be not finite themselves.
"""


def prepare_rollback(run: RunState) -> bool:
    """Keep a checkpoint to go back to, before an epoch is trained, unless there is one; return whether it is new.

    A run that goes on within an epoch, and is told only now to go back, keeps none until that epoch has ended.
    """
    kept = kept_path(run.folder.path, run.epoch)
    if run.step_in_epoch or run.processes.on_first(kept.exists):  # the others may look before the first has written it
        return False
    run.save()
    if run.processes.first:
        keep_checkpoint(run.folder.path, run.epoch, 1)
    return True


def require_good(run: RunState, epoch: Epoch) -> None:
    """Raise `NonFiniteLossError` after an epoch from whose end the run would not recover."""
    if not epoch.train_loss <= LARGEST_LOSS:
        raise NonFiniteLossError(run.step - 1)


def roll_back(run: RunState, step: int) -> str | None:
    """Take a run whose loss was not finite at a step back, and return in words what was done; None: it cannot go on.

    The new checkpoint is written at once.
    """
    if len(run.rollbacks) >= MOST:
        return None
    folder, before, factor = run.folder.path, run.rollbacks, FACTOR * run.rate_factor
    checkpoint = None
    with suppress(InputError):  # gone, or damaged
        checkpoint = read_pair(folder, kept_path(folder, run.epoch))
    if run.processes.any([checkpoint is None])[0]:  # all go back, or none
        return None
    assert checkpoint is not None
    assert checkpoint.state is not None
    run.restore(checkpoint, checkpoint.state)
    fuse(run.optimizer)
    last = Rollback(epoch=run.epoch + 1, step=step, rate_factor=factor)
    run.rollbacks = (*before, last)
    run.save()
    if run.processes.first:
        keep_checkpoint(folder, run.epoch, None)
        run.folder.note_rollbacks(run.rollbacks)
    return (
        f"the loss is not finite, or huge, at step {step}: back to the beginning of epoch {last.epoch}, and on with "
        f"{last.rate_factor:g} times the learning rate ({len(run.rollbacks)} of {MOST} times)"
    )


def failed(run: RunState, step: int) -> InputError:
    """Write that the loss is not finite at a step; return the error that says what to try."""
    epoch, tries = step // len(run.loader) + 1, len(run.rollbacks)
    tried = f" after {tries} returns with a lower learning rate" if tries else ""
    there = (run.folder.path / LAST).exists()
    left = f"the last good checkpoint is in {run.folder.path}" if there else "there is no checkpoint yet"
    message = (
        f"the loss is not finite at step {step} (epoch {epoch}){tried}: lower --lr, give a longer --warmup-epochs or a "
        f"--clip-norm; {left}"
    )
    if run.processes.first:
        run.folder.write_failure(Failure(error=message, epoch=run.epoch, step=step))
    return InputError(message)
