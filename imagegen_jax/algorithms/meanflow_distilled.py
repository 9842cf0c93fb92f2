"""A MeanFlow that learns from a trained diffusion, its teacher, instead of from images' own velocities.

The velocity of the flow is what the teacher's denoiser says, of any process (mean_velocity.of_denoiser): it is what V is fitted
to, and along it du/dt is taken (Geng et al. 2025, "Mean Flows for One-step Generative Modeling", equations 6 and 8, whose v is
known here). The teacher stays as its own run left it, and a copy is in the state: this run needs that one only to begin.
"""

import dataclasses
from typing import Any
from typing import ClassVar

import jax

from imagegen_jax import conditions as conditions_lib
from imagegen_jax import errors
from imagegen_jax.algorithms import capabilities
from imagegen_jax.algorithms import meanflow
from imagegen_jax.diffusion import mean_velocity


@dataclasses.dataclass(frozen=True)
class DistilledMeanFlow(meanflow.MeanFlow):
    """A MeanFlow with a teacher.

    Attributes:
      first_stage: the teacher, a method that denoises.
    """

    first_stage_capability: ClassVar[type] = capabilities.Denoises

    first_stage: Any = None

    @classmethod
    def from_config(cls, config, spec, training):
        teacher, made = training.first_stage, super().from_config(config, spec, training)
        if bool(made.classes) != bool(teacher.classes):
            told = "labels" if teacher.classes else "no labels"
            raise errors.UserError(
                f"config.meanflow.conditional is {config.meanflow.conditional}, and the run in config.first_stage.workdir is "
                f"told {told}: set --config.meanflow.conditional={bool(teacher.classes)}"
            )
        return dataclasses.replace(made, first_stage=teacher)

    def init(self, rng):
        student_rng, teacher_rng = jax.random.split(rng)
        return self.with_first_stage(super().init(student_rng), self.first_stage.init(teacher_rng))

    def with_first_stage(self, state, trained):
        """See capabilities.HasFirstStage."""
        return state.replace(extra={"first_stage": trained.frozen()})

    def _field(self, state, params, z, t, velocity, condition, scale):
        denoise = self.first_stage.denoiser(state.extra["first_stage"])
        teach = mean_velocity.of_denoiser(denoise, self.first_stage.process)
        known = teach(z, t, condition)
        if self.objective.guided:
            without = teach(z, t, conditions_lib.null(self.conditions, len(z)))
            known = without + scale.reshape(-1, 1, 1, 1) * (known - without)
        return known, known
