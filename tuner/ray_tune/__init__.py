"""Ray Tune, for people who live in it: a study's space as a `param_space`, its trials as a Trainable, its sampler.

    from tuner.ray_tune import OptunaBridge, param_space, trainable

    ray.tune.Tuner(trainable("study.yaml"), param_space=param_space("study.yaml"), …)

Trials are cohorts of one: of a Tune trial that is a whole cohort no row could be stopped or exploited alone. This
package and `tuner.executors.ray_cluster` alone import Ray. `driver` runs whole studies of `executor: ray-tune`.
"""

from __future__ import annotations

from tuner.ray_tune.bridge import OptunaBridge
from tuner.ray_tune.space import param_space
from tuner.ray_tune.trial import trainable

__all__ = ["OptunaBridge", "param_space", "trainable"]
