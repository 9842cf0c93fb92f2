"""Declaring what a person may choose: the keys of a config, and the options of drawing.

Both are the fields of frozen dataclasses, in the file that reads them. The type of a field may carry bounds and a meaning:

    class Config:
        channels: Annotated[int, AtLeast(2)] = 128  # width at full resolution
        schedule: Annotated[str, OneOf(schedules.CURVES)] = "linear"
        duration: Duration = "2000 steps"
        remat: bool = resumable(False)  # whether two starts of one run may differ in it

A class may have a method `objections(self)`, which yields (path of a field, what is wrong with it) where several do not go
together.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import math
import operator
import re
import types
import typing
from typing import Annotated
from typing import Any

from imagegen_jax import errors


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """value >= bound."""

    bound: float

    def objection(self, value):
        return f"it must be at least {self.bound}" if value < self.bound else None


@dataclasses.dataclass(frozen=True)
class AtMost:
    """value <= bound."""

    bound: float

    def objection(self, value):
        return f"it can be at most {self.bound}" if value > self.bound else None


@dataclasses.dataclass(frozen=True)
class Above:
    """value > bound."""

    bound: float

    def objection(self, value):
        return f"it must be more than {self.bound}" if value <= self.bound else None


@dataclasses.dataclass(frozen=True)
class Below:
    """value < bound."""

    bound: float

    def objection(self, value):
        return f"it must be less than {self.bound}" if value >= self.bound else None


class OneOf:
    """One of some values, such as the keys of a registry."""

    def __init__(self, choices: Iterable):
        self.choices = tuple(choices)

    def objection(self, value):
        return None if value in self.choices else f"choose one of {', '.join(map(str, self.choices))}"


@dataclasses.dataclass(frozen=True)
class Each:
    """What holds for each of several values."""

    bound: Any

    def objection(self, value):
        found = (self.bound.objection(one) for one in value)
        return next((text.replace("it ", "each ", 1) for text in found if text), None)


class _Regex:
    def objection(self, value):
        try:
            re.compile(value)
        except re.error as error:
            return f"it is no regular expression: {error}"
        return None


class _Duration:
    def __init__(self, positive=False):
        self._positive = positive

    def objection(self, value):
        match = _parsed_duration(value)
        if not match:
            return "write a duration as '2000 steps' or '40 epochs'"
        return "it must be more than 0" if self._positive and not float(match[1]) else None


Duration = Annotated[str, _Duration()]  # '2000 steps', '40 epochs' or a bare number of steps; '0' means never
PositiveDuration = Annotated[str, _Duration(positive=True)]
Regex = Annotated[str, _Regex()]
Dtype = Annotated[str, OneOf(("float32", "bfloat16"))]  # of a computation; parameters are float32


def _parsed_duration(text):
    return re.fullmatch(r"(\d+(?:\.\d+)?) *(steps?|epochs?)?", str(text).strip())


def in_steps(duration, batch_size, records):
    """A Duration in steps: at least one, or 0 for never.

    Args:
      duration: text.
      batch_size: images a step.
      records: images in an epoch.
    """
    match = _parsed_duration(duration)
    if not match:
        raise errors.UserError(f"{duration!r} is no duration: write it as '2000 steps' or '40 epochs'")
    amount = float(match[1])
    steps = round(amount * records / batch_size) if (match[2] or "").startswith("epoch") else round(amount)
    return max(steps, 1) if amount else 0


def resumable(default):
    """A field that may change between two starts of one run: how long, how often, where from. All else is the experiment."""
    return dataclasses.field(default=default, metadata={"resumable": True})


# ------------------------------------------------------------------------------------------------------------------ reading


@dataclasses.dataclass(frozen=True)
class Field:
    """A declared field.

    Attributes:
      name: of the field.
      kinds: the types that it may have; a section's are dataclasses.
      several: whether it is a tuple of values of that type.
      optional: whether it may be None.
      bounds: what must hold of its values.
      meaning: what --help says of it; '' where nothing is said.
      resumable: see the function `resumable`.
    """

    name: str
    kinds: tuple[type, ...]
    several: bool
    optional: bool
    bounds: tuple[Any, ...]
    meaning: str
    resumable: bool

    @property
    def is_section(self):
        """Whether it has keys of its own."""
        return any(map(dataclasses.is_dataclass, self.kinds))

    def objection(self, value):
        """What is wrong with a value by itself; None for nothing."""
        if value is None and self.optional:
            return None
        return self.misfit(value) or next((text for bound in self.bounds if (text := bound.objection(value))), None)

    def misfit(self, value):
        """What is wrong with a value's type, or that it is none of the choices; None for nothing."""
        if value is None and self.optional:
            return None
        if self.several and not isinstance(value, tuple):
            return "give several, such as (1, 2)"
        for one in value if self.several else (value,):
            if self.kinds[0] in _KINDS and not _KINDS[self.kinds[0]][0](one):
                wanted = _KINDS[self.kinds[0]][1]
                if self.several:
                    wanted = "give whole numbers, such as (1, 2)" if self.kinds == (int,) else f"{wanted} for each"
                return wanted
            if isinstance(one, float) and not math.isfinite(one):
                return "it must be a finite number"
        choices = (bound for bound in self.bounds if isinstance(bound, OneOf))
        return next((text for bound in choices if (text := bound.objection(value))), None)

    def parse(self, text):
        """A value of what a person writes; a tuple has commas between. Raises ValueError, which says what to write."""
        if self.several:
            return tuple(_parse(self.kinds[0], word) for word in str(text).split(","))
        return _parse(self.kinds[0], text)


# type: (whether a value is of it, what to write otherwise)
_KINDS = {
    bool: (lambda value: isinstance(value, bool), "write true or false"),
    int: (lambda value: isinstance(value, int) and not isinstance(value, bool), "write a whole number"),
    float: (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "write a number"),
    str: (lambda value: isinstance(value, str), "write text"),
}


def _parse(kind, text):
    try:
        value = {"true": True, "false": False}[str(text).lower()] if kind is bool else kind(text)
        if kind is not str and not math.isfinite(value):
            raise ValueError
    except (ValueError, KeyError, OverflowError):
        raise ValueError(_KINDS[kind][1]) from None
    return value


@functools.cache
def fields(cls) -> dict[str, Field]:
    """The declared fields of a dataclass, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _field(field, hints[field.name]) for field in dataclasses.fields(cls)}


def _field(field, hint):
    notes = []
    while typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        notes += more
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    optional = type(None) in kinds
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if typing.get_origin(kinds[0]) is Annotated:  # an alias with bounds, in a union with None
        kind, *more = typing.get_args(kinds[0])
        kinds, notes = (kind,), notes + more
    several = typing.get_origin(kinds[0]) is tuple
    if several:
        kinds = typing.get_args(kinds[0])[:1]
        if typing.get_origin(kinds[0]) is Annotated:
            raise TypeError(f"{field.name}: write bounds of each value as Each(...)")
    if typing.get_origin(kinds[0]) is typing.Literal:
        choices = typing.get_args(kinds[0])
        notes.append(OneOf(choices))
        kinds = (type(choices[0]),)
    bounds = tuple(note for note in notes if hasattr(note, "objection"))
    meaning = next((note for note in notes if isinstance(note, str)), "")
    return Field(field.name, kinds, several, optional, bounds, meaning, bool(field.metadata.get("resumable")))


def to_dict(section) -> dict[str, Any]:
    """A dataclass with its sections as a nested dict; sections that are None are left out."""
    found = {}
    for name, field in fields(type(section)).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            found[name] = to_dict(value)
        elif not (field.is_section and value is None):
            found[name] = value
    return found


def build(cls, values: Mapping[str, Any], path=""):
    """A dataclass of the values of a nested mapping, whatever they are; the inverse of `to_dict`.

    Args:
      cls: the dataclass.
      values: a value for each of its fields; lists become tuples. Of a section of several classes, `name` says which.
      path: of the section, for errors.

    Raises:
      errors.UserError: there are other keys than fields.
    """
    declared = fields(cls)
    missing = [name for name, field in declared.items() if name not in values and not (field.is_section and field.optional)]
    unknown = [name for name in values if name not in declared]
    if missing or unknown:
        named = f"{path}name={values['name']}" if "name" in values else path.rstrip(".")
        wrong = {"lacks": missing, "has no": unknown}
        listed = ", and ".join(f"{how} {', '.join(map(str, names))}" for how, names in wrong.items() if names)
        raise errors.UserError(f"config.{named} has other keys: this config {listed}; start from a recipe that has it")
    built = {}
    for name, field in declared.items():
        value = values.get(name)
        if field.is_section and value is not None:
            value = build(variant(field, value), value, f"{path}{name}.")
        elif field.several:
            value = tuple(tuple(one) if isinstance(one, list) else one for one in value)
        elif field.kinds == (float,) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        built[name] = value
    return cls(**built)


def variant(field, values):
    """Of the classes that a section may have, that whose `name` may be the one given; the first where there is none."""
    if "name" not in values:
        return field.kinds[0]
    known = []
    for kind in field.kinds:
        if named := fields(kind).get("name"):
            if not named.objection(values.get("name")):
                return kind
            known += [choice for bound in named.bounds if isinstance(bound, OneOf) for choice in bound.choices]
    if len(field.kinds) > 1:
        raise errors.UserError(f"config.{field.name}.name is {values.get('name')!r}: choose one of {', '.join(known)}")
    return field.kinds[0]


def objections(section, path="config.") -> Iterator[str]:
    """One line for each value that cannot be, first those that are wrong by themselves, then those that do not go together."""
    yield from _by_themselves(section, path, Field.objection)
    yield from _together(section, path)


def misfits(section, path="config.") -> Iterator[str]:
    """One line for each value of another type, or that is none of the choices, whatever else is allowed today."""
    return _by_themselves(section, path, Field.misfit)


def _by_themselves(section, path, wrong):
    for name, field in fields(type(section)).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from _by_themselves(value, f"{path}{name}.", wrong)
        elif not field.is_section and (text := wrong(field, value)):
            yield f"{path}{name} is {value!r}: {text}"


def _together(section, path):
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _together(value, f"{path}{field.name}.")
    for name, text in getattr(section, "objections", tuple)():
        yield f"{path}{name} is {operator.attrgetter(name)(section)!r}: {text}"


def section(module, *, without=()):
    """A dataclass of the fields of a Linen module or of another dataclass, but `name` and those that the caller fills in.

    `dtype` becomes a name of one.
    """
    left_out = {"parent", "name", *without}
    return dataclasses.make_dataclass(
        "Config",
        [
            (field.name, Dtype, dataclasses.field(default="float32"))
            if field.name == "dtype"
            else (field.name, field.type, dataclasses.field(default=field.default, metadata=field.metadata))
            for field in dataclasses.fields(module)
            if field.name not in left_out
        ],
        frozen=True,
    )


def options(*parts):
    """A dataclass of options of drawing: each takes the place of a key, and is None where it is not asked for.

    Args:
      *parts: (dataclass, what makes the name of an option of that of a field), of which the types, bounds and meanings are.
    """
    declared = []
    for cls, named in parts:
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            kind, *notes = typing.get_args(hint)  # each has a meaning, so that each is Annotated
            declared.append((named(name), Annotated[kind | None, *notes], dataclasses.field(default=None)))
    return dataclasses.make_dataclass("Request", declared, frozen=True)


def asked(request, cls, named):
    """{field of cls: value} of what a request of `options` asks for."""
    found = {name: getattr(request, named(name)) for name in fields(cls)}
    return {name: value for name, value in found.items() if value is not None}
