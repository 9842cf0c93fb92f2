"""What may be asked of a run that draws: its family's options, and what the images are to show."""

from imagegen_jax import conditions
from imagegen_jax import errors
from imagegen_jax import keys
from imagegen_jax import progress

LABEL = "label"
PROMPT = "prompt"
_SHOWN = (LABEL, PROMPT)


def typed(written, algorithm, spec):
    """A request with values in place of what is written.

    Args:
      written: {name: text or value} of options of drawing; of 'label', the name or number of a class; and of 'prompt', a text
        or several.
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
        if name == PROMPT:
            values[name] = _prompts(value, algorithm.text)
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


def options(typed):
    """Those of a typed request that are fields of its algorithm's Request."""
    return {name: value for name, value in typed.items() if name not in _SHOWN}


def _prompts(written, kind):
    """A tuple of texts; of those that are too long it tells what is cut."""
    texts = (written,) if isinstance(written, str) else tuple(written)
    if not kind:
        raise errors.UserError(f"--prompt={texts[0] if texts else ''}: {conditions.NO_TEXTS}")
    if not texts or not all(isinstance(text, str) for text in texts):
        raise errors.UserError(f"--prompt={written}: give a text, or several")
    for text in texts:
        if cut := kind.cut(text):
            tokens = "tokens" if kind.tokenizer else "bytes"
            progress.tell(f"--prompt={text}: this run reads {kind.length} {tokens} of a text; '{cut}' is cut")
    return texts
