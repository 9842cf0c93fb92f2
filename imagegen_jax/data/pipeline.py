"""From records to batches of one shape: deterministic, split over processes, resumable from any step.

Position p of the endless stream of training images is record order(p), where `order` runs through a new permutation of all
records in each epoch, or takes each class equally often. Batch s holds the positions s B, ..., (s + 1) B - 1; of P processes
the i-th reads the i-th contiguous share of each batch. So the batch at a step is a pure function of (seed, step), and a resumed
run has nothing to restore.
"""

from collections.abc import Iterator
import functools
import threading
import zlib

import grain
import numpy as np
from PIL import Image

from imagegen_jax import errors
from imagegen_jax.data import pictures


def host_shape(source, config):
    """(h, w, c) of the arrays that the host makes: before the random crop, if there is one.

    Args:
      source: a sources.Source.
      config: a config's `data` section.

    Raises:
      errors.UserError: the records differ in size or channels and the config does not say which to make.
    """
    size = config.load_size or config.image_size
    shape = ((size, size) if size else tuple(source.image_shape[:2])) + (config.channels or source.image_shape[2],)
    for key, value in (("image_size", shape[0]), ("channels", shape[2])):
        if value is None:
            raise errors.UserError(f"the images of {config.source} differ in shape", f"data.{key}", "make them alike")
    if config.load_size and config.load_size < config.image_size:
        raise errors.UserError(
            f"config.data.load_size is {config.load_size}: it must be at least config.data.image_size, {config.image_size}"
        )
    if config.load_size and not config.image_size:
        raise errors.UserError("config.data.load_size needs config.data.image_size, the size of the random crop")
    return shape


def model_shape(source, config):
    """(h, w, c) of the images that the model sees."""
    h, w, c = host_shape(source, config)
    return (config.image_size or h, config.image_size or w, c)


def fit(image, shape):
    """(h, w, c) uint8 to `shape`: converts the channels, resizes to cover the target (Lanczos), and cuts out its middle."""
    height, width, channels = shape
    if image.shape == shape:
        return image
    picture = pictures.of_array(image)
    scale = max(height / picture.height, width / picture.width)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return pictures.convert(picture.crop((left, top, left + width, top + height)), channels)


class Reader:
    """Reads numbered records as arrays of one shape.

    Attributes:
      shape: (h, w, c) of the arrays.
      captions: the captions.Captions of the source, where its images come with such, or None.
      skipped: numbers of the unreadable records met so far (on_bad_image 'skip').
    """

    def __init__(self, source, shape, on_bad_image, captions=None):
        self._source = source
        self.captions = captions
        self.shape = shape
        self._on_bad_image = on_bad_image
        self._lock = threading.Lock()
        self.skipped = set()

    @property
    def rows(self):
        """{name: (shape, dtype)} of a record's row in a batch, but for condition and index."""
        return {"image": (self.shape, np.uint8)}

    def __call__(self, indices, positions=None):
        """{'image': (n, *shape) uint8, 'condition': …, 'index': (n,) int32} of the records `indices`.

        The condition has what the source knows of its images: 'label' (n,) int32, where they have classes; 'text' (n, length)
        int32, where they have captions, of which that of a record depends on its position in the endless stream.

        An unreadable record is an errors.UserError, or with 'skip' its successor's image stands in its place.
        """
        try:
            records = self._source.__getitems__(indices)
        except pictures.BadImageError as error:
            if self._on_bad_image == "error":
                # Not to be removed in training, which only goes on with the images that it began with.
                raise errors.UserError(str(error), "data.on_bad_image=skip", "remove it") from error
            records = [self._readable(i) for i in indices]
        images = np.stack([fit(record["image"], self.shape) for record in records])
        return {"image": images} | self.told([record["label"] for record in records], indices, positions)

    def told(self, labels, indices, positions=None):
        """'condition' and 'index' of such a batch, of records with these labels."""
        condition = {}
        if self._source.class_names:
            condition["label"] = np.array(labels, np.int32)
        if self.captions:
            condition["text"] = self.captions(indices, positions)
        return {"condition": condition, "index": np.array(indices, np.int32)}

    def _readable(self, index):
        for i in range(len(self._source)):
            candidate = (index + i) % len(self._source)
            try:
                return self._source.__getitems__([candidate])[0]
            except pictures.BadImageError:
                with self._lock:
                    self.skipped.add(candidate)
        raise errors.UserError("no image of the source can be read")


def shuffled(records, seed):
    """Position in the endless stream -> number of a record; each epoch is a new permutation of them all."""
    return grain.MapDataset.range(records).seed(seed).shuffle().repeat().__getitem__


def balanced(labels, seed):
    """Position in the endless stream -> number of a record, with each class equally often.

    Of K classes each comes once in the positions r K, ..., (r + 1) K - 1, in a new order for each r, with the r-th image of its
    own endless stream of permutations. So it is a pure function of the seed and the position, as `shuffled` is.

    Args:
      labels: (n,) integers; records whose label is negative are left out.
      seed: an integer.
    """
    labels = np.asarray(labels)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    turn = _shuffled_few(len(members), seed)
    orders = [_shuffled_few(len(numbers), f"{seed} {i}") for i, numbers in enumerate(members)]

    def at(position):
        one = turn(position)
        return int(members[one][orders[one](position // len(members))])

    return at


def _shuffled_few(records, name):
    """What `shuffled` is, of a few records: Grain takes 5 ms for a position among ten, and 18 ms among two."""

    @functools.lru_cache(maxsize=2 + 256 // records)  # threads read near positions
    def permutation(epoch):
        # The older of NumPy's generators is the one whose streams stay as they are.
        return np.random.RandomState(zlib.crc32(f"{name} {epoch}".encode())).permutation(records)

    def at(position):
        epoch, place = divmod(position, records)
        return permutation(epoch)[place]

    return at


def train_batches(
    reader, order, *, batch_size, first_step, workers, prefetch, process_index=0, process_count=1
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of every batch from step `first_step` on, without end, decoded ahead in threads.

    Args:
      reader: a Reader.
      order: position in the endless stream -> number of a record: `shuffled` or `balanced`.
      batch_size: over all processes.
      first_step: number of the first batch to come.
      workers: decoding threads.
      prefetch: batches decoded ahead.
      process_index: which share is this process's.
      process_count: number of shares; it must divide batch_size.
    """
    share = batch_size // process_count

    def load(step):
        start = step * batch_size + process_index * share
        positions = list(range(start, start + share))
        return reader([order(position) for position in positions], positions)

    steps = grain.MapDataset.range(first_step, np.iinfo(np.int32).max)
    return iter(steps.map(load).to_iter_dataset(grain.ReadOptions(num_threads=workers, prefetch_buffer_size=prefetch)))


def fair_draw(records, num):
    """(num,) numbers of `records` records, ascending and always the same: a fair draw, and not the first class of a folder."""
    return np.sort(fair_order(records)[:num])


def fair_order(records):
    """(records,) their numbers in a random order, always the same; the first of them are `fair_draw`."""
    return np.random.default_rng(0).permutation(records)


def eval_batches(reader, numbers, batch_size, process_index=0, process_count=1) -> Iterator:
    """(batch, mask) of the records of these numbers once, in order, this process's share of each batch.

    The last batch is filled up with the first record; the mask, (n,) float32, is 0 there and 1 elsewhere.
    """
    share = batch_size // process_count
    for start in range(0, len(numbers), batch_size):
        positions = start + process_index * share + np.arange(share)
        mask = positions < len(numbers)
        yield reader([int(i) for i in numbers[np.where(mask, positions, 0)]]), mask.astype(np.float32)
