"""What may be asked of a run that draws: its family's options, and a label."""

from imagegen_jax import errors
from imagegen_jax import keys

LABEL = "label"


def typed(written, algorithm, spec):
    """A request with values in place of what is written.

    Args:
      written: {name: text or value} of options of drawing, and of 'label', the name or number of a class.
      algorithm: of the run.
      spec: the run's images.Spec.

    Returns:
      {name: value}

    Raises:
      errors.UserError: the algorithm has no such option, the option no such value, or the images no such class.
    """
    declared = keys.fields(algorithm.Request)
    values = {}
    for name, value in written.items():
        value = value.tolist() if hasattr(value, "tolist") else value  # a number or an array of NumPy or JAX
        if name == LABEL:
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise errors.UserError(f"--label={value}: give the name or the number of a class")
            values[name] = spec.label_of(value) if isinstance(value, str) else value
            continue
        if name not in declared:
            raise errors.UserError(f"--{name}={value}: this family of generators has no such option; leave it out")
        try:
            value = tuple(value) if isinstance(value, list) else value
            alone = declared[name].several and not isinstance(value, tuple)  # where several may stand
            values[name] = declared[name].parse(value) if alone or isinstance(value, str) else value
        except ValueError as error:
            raise errors.UserError(f"--{name}={value}: {error}") from error
        if text := declared[name].objection(values[name]):
            raise errors.UserError(f"--{name}={value}: {text}")
    return values
