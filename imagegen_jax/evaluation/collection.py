"""Sets of images as features: collected piece by piece, so that what was computed before a kill is not computed again."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses

import numpy as np

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax import progress

KEPT_IMAGES = 1000  # so many are kept as they are, for what compares the images themselves
_PIECE = 1000  # rows a file


@dataclasses.dataclass(frozen=True)
class Collection:
    """A set of images, as far as scores need it. Row i is image i.

    Attributes:
      features: (n, d) float32.
      logits: (n, k) float32; k is 0 where the network makes none.
      labels: (n,) int32, the data's own; -1 where there is none.
      images: (min(n, KEPT_IMAGES), h, w, c) uint8, the first of the set.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    images: np.ndarray

    def __len__(self):
        return len(self.features)

    def __getitem__(self, rows):
        """The set of these rows, a slice or an array of numbers; without images unless it is a slice from the start."""
        first = rows.stop if isinstance(rows, slice) and not rows.start else 0
        return Collection(self.features[rows], self.logits[rows], self.labels[rows], self.images[:first])


def joined(parts):
    """One Collection of several, in order."""
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(Collection)
    }
    return Collection(**columns | {"images": columns["images"][:KEPT_IMAGES]})


def collect(extractor, batches: Callable[[int], Iterator], num, folder=None, what="images"):
    """The features of a set of images, behind a progress bar.

    Args:
      extractor: a features.Extractor.
      batches: first -> iterator over (images (n, h, w, c) uint8, labels (n,) int32) from image `first` on.
      num: how many images; where the iterator ends earlier, fewer.
      folder: where pieces are kept until `discard`; what lies there is not computed again. None: nowhere.
      what: for the progress bar.

    Returns:
      A Collection.

    Raises:
      errors.UserError: there are no images, or they do not fit the network.
    """
    parts = _kept(folder)
    done = sum(map(len, parts))
    with progress.Progress(num, "image", what, min(done, num)) as bar:
        waiting = []
        for batch, labels in batches(done) if done < num else ():
            batch, labels = batch[: num - done], labels[: num - done]
            waiting.append(Collection(*extractor(batch), labels.astype(np.int32), batch[: max(0, KEPT_IMAGES - done)]))
            done += len(batch)
            bar.update(len(batch))
            if done >= num or sum(map(len, waiting)) >= _PIECE:
                part = joined(waiting)
                if folder is not None and not save(files.to_path(folder) / f"{sum(map(len, parts)):08d}.npz", part):
                    folder = None  # which is said once
                parts.append(part)
                waiting = []
            if done >= num:
                break
        parts += waiting
    if not parts:
        raise errors.UserError(f"there are no {what}")
    return joined(parts)[:num]


def discard(folder):
    """Removes what `collect` kept, when the scores are written, but not what another process is writing there."""
    for piece in files.to_path(folder).glob("*.npz"):
        piece.unlink(missing_ok=True)
    with contextlib.suppress(OSError, ValueError):  # the latter of a bucket
        files.to_path(folder).rmdir()


def save(path, collection):
    """Writes a Collection to one .npz file, as a whole or not at all. Returns whether it could; a printed line says if not."""
    try:
        with files.atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{field.name: getattr(collection, field.name) for field in dataclasses.fields(Collection)})
        return True
    except errors.UserError as error:
        progress.tell(f"{error}; it will be computed again the next time")
        return False


def load(path):
    """The Collection of a file, or None where there is none that can be read."""
    try:
        return Collection(**files.read_npz(path, [field.name for field in dataclasses.fields(Collection)]))
    except (ValueError, TypeError):
        return None


def _kept(folder):
    """The pieces in a folder, from image 0 on without a gap."""
    parts, done = [], 0
    while folder is not None and (part := load(files.to_path(folder) / f"{done:08d}.npz")) is not None:
        parts.append(part)
        done += len(part)
    return parts
