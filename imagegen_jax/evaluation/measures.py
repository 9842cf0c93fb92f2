"""The numbers of scores: what they are called, and how they and what they belong to are written."""

from typing import NamedTuple


class Measure(NamedTuple):
    """How a number is shown.

    Attributes:
      name: what it is called; '…' stands for the measure before it.
      better: '↓' where less is better, '↑' where more is, '' where neither is.
      scale: it is multiplied by this.
      brief: whether it is in the table of a command, too.
    """

    name: str
    better: str = ""
    scale: int = 1
    brief: bool = True

    @property
    def heading(self):
        """The name, and which way is better."""
        return f"{self.name} {self.better}".strip()


MEASURES = {
    "fid": Measure("Fréchet distance", "↓"),
    "fid.infinity": Measure("… of unlimited samples", "↓"),
    "fid.slope": Measure("… slope over 1 / images", brief=False),
    "kid": Measure("kernel distance x 1000", "↓", 1000),
    "kid.all_samples": Measure("… of all samples x 1000", "↓", 1000, brief=False),
    "is": Measure("Inception Score", "↑"),
    "prdc.precision": Measure("precision", "↑"),
    "prdc.recall": Measure("recall", "↑"),
    "prdc.density": Measure("density", "↑"),
    "prdc.coverage": Measure("coverage", "↑"),
    "classes.coverage": Measure("share of classes", "↑"),
    "classes.entropy": Measure("entropy of classes, nats", brief=False),
    "classes.relative_entropy": Measure("entropy of classes, relative", "↑"),
    "classes.of_reference.coverage": Measure("… share of classes, reference", brief=False),
    "classes.of_reference.entropy": Measure("… entropy, nats, reference", brief=False),
    "classes.of_reference.relative_entropy": Measure("… entropy, relative, reference", brief=False),
    "labels": Measure("as labelled", "↑"),
    "diversity.pairwise_distance": Measure("pairwise distance"),
    "diversity.pairwise_ssim": Measure("pairwise SSIM"),
    "diversity.duplicates": Measure("duplicates", "↓"),
    "memorisation.train": Measure("distance to nearest training image", brief=False),
    "memorisation.test": Measure("distance to nearest test image", brief=False),
    "memorisation.nearer": Measure("nearer to training"),
    "memorisation.interval": Measure("nearer to training, interval", brief=False),
    "memorisation.nearer_all": Measure("… among all of both", brief=False),
    "memorisation.chance": Measure("… that by chance", brief=False),
}


def named(path):
    """The Measure at a path, such as 'kid.all_samples'."""
    return MEASURES.get(path) or Measure(path.replace(".", ": ").replace("_", " "))


def of(scores, prefix=""):
    """Yields ('kid.all_samples', {'value': …, maybe 'interval', 'deviation'}) for each number of scores, but for each class's.

    Whole numbers are settings of a metric and not measured; `settings` has them.
    """
    for key, value in scores.items():
        path = f"{prefix}{key}"
        if path == "classes.classes":
            continue
        if isinstance(value, dict):
            if "value" in value:
                yield path, value
            inner = ("value", "interval", "deviation") if "value" in value else ()
            yield from of({name: part for name, part in value.items() if name not in inner}, f"{path}.")
        elif isinstance(value, float):
            yield path, {"value": value}
        elif key == "interval":
            yield path, {"interval": value}


def settings(scores, prefix=""):
    """Yields ('kid.subset_size', 1000) for each whole number of scores."""
    for key, value in scores.items():
        if isinstance(value, dict):
            yield from settings(value, f"{prefix}{key}.")
        elif isinstance(value, int):
            yield f"{prefix}{key}", value


def cell(path, found, brief=False):
    """What `of` yields as '1.98 [1.79, 2.19] ± 0.1', as far as there are such, or '' for None.

    `brief` leaves out the deviation where there is an interval.
    """
    if not found:
        return ""
    scale = named(path).scale
    parts = []
    if is_number(found.get("value")):
        parts.append(f"{scale * found['value']:.4g}")
    if "interval" in found:
        parts.append(f"[{', '.join(f'{scale * bound:.3g}' for bound in found['interval'])}]")
    if "deviation" in found and not (brief and "interval" in found):
        parts.append(f"± {scale * found['deviation']:.2g}")
    return " ".join(parts)


def label(label):
    """What sets scored images apart from others of the run, as 'step 300, steps 10'."""
    return ", ".join(f"{key} {value}" for key, value in label.items())


def comparison(protocol):
    """Which images were compared with which, in a line."""
    reference, features = protocol["reference"], protocol["features"]
    part = ", ".join(reference[name] for name in ("split", "half") if name in reference)
    split = f" ({part})" if part else ""
    against = f"{reference.get('num') or ''} of {reference.get('source', '?')}{split}".strip()
    return f"{protocol['images'].get('num', '?')} images against {against}, in features {features.get('features', '?')}"


def is_number(value):
    """Whether a value of a JSON file is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)
