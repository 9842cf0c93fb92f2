"""Which checkpoints stay: the latest few, every n-th, and the best by a metric."""

import dataclasses
import difflib
import math
import re

from imagegen_jax import errors

# Metrics of which more is better; of all others, such as losses and distances, less is. A suffix names a direction or a side.
_MORE_IS_BETTER = re.compile(r"eval/(accuracy|psnr|ssim|classes_covered|log_prob|perplexity)(_\w+)?")


def best(metric, scores, steps):
    """The step with the best score.

    Args:
      metric: whose name says which way is better, such as 'eval/loss' or 'eval/accuracy'.
      scores: {step: value}.
      steps: those to choose of.

    Returns:
      One of the steps, the earliest of equals; None where none has a finite score.
    """
    scored = [step for step in steps if math.isfinite(scores.get(step, math.nan))]
    return min(scored, key=lambda step: (cost(metric, scores[step]), step), default=None)


def cost(metric, value):
    """The value of a metric, or its negative where more is better."""
    return -value if _MORE_IS_BETTER.fullmatch(metric) else value


@dataclasses.dataclass
class Policy:
    """Which checkpoints stay, as a function of the steps and their scores alone, so that a stop and a resume change nothing.

    Attributes:
      latest: so many of the latest stay.
      cadence: steps between two checkpoints; 0 where only the last step has one.
      every: the first checkpoint in each such number of steps stays for good; 0 for none.
      metric: the checkpoint that is best by it stays too; '' for none.
      scores: {step: value of that metric}.
      extra: steps that have a checkpoint only because the training was stopped there. One stays until the next is written.
    """

    latest: int = 1
    cadence: int = 0
    every: int = 0
    metric: str = ""
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    extra: set[int] = dataclasses.field(default_factory=set)

    def kept(self, steps):
        """The set of those of the ascending `steps` that stay."""
        regular = [step for step in steps if step not in self.extra]
        kept = {*steps[-1:], *regular[-self.latest :], *filter(self._is_kept_for_good, regular)}
        found = best(self.metric, self.scores, regular)
        return kept if found is None else kept | {found}

    def _is_kept_for_good(self, step):
        on_cadence = self.every and self.cadence and step % self.cadence == 0
        return on_cadence and step // self.every != (step - self.cadence) // self.every

    def should_preserve(self, checkpoints, *, context):
        """Orbax's PreservationPolicy: a bool for each checkpoint."""
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


def check(metric, names, checkpoint_every, eval_every, total_steps):
    """Checks config.checkpoint.best_metric before a run begins.

    Args:
      metric: the key's value; '' asks for nothing.
      names: what is measured on the way; empty where there are no test images.
      checkpoint_every: steps between two checkpoints; 0 for the last step only.
      eval_every: steps between two measurements; 0 for never.
      total_steps: length of the training.

    Raises:
      errors.UserError: it is not measured, or never at a step that has a checkpoint.
    """
    if not metric:
        return
    said = f"config.checkpoint.best_metric is {metric!r}"
    if not names:
        raise errors.UserError(f"{said}, and there are no test images to measure it on: leave it empty")
    if metric not in names:
        near = difflib.get_close_matches(metric, names, 1, 0)
        raise errors.UserError(f"{said}, which is not measured: did you mean {near[0]}? There are {', '.join(sorted(names))}")
    if not eval_every:
        raise errors.UserError(f"{said}, and config.eval.every is 0, so it is never measured: set --config.eval.every")
    meeting = math.lcm(eval_every, checkpoint_every) if checkpoint_every else total_steps
    if meeting >= total_steps > checkpoint_every > 0:
        raise errors.UserError(
            f"{said}, and it is never measured at a step that has a checkpoint: make --config.checkpoint.every a multiple of "
            f"config.eval.every, which are {checkpoint_every} and {eval_every} steps"
        )
