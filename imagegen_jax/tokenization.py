"""Texts as numbers of tokens: the bytes of UTF-8, or those of a tokenizer.json, as Hugging Face's models have it."""

import contextlib
import functools
import hashlib
import pathlib

from imagegen_jax import errors

FILE = "tokenizer.json"


class Bytes:
    """A token is a byte. Of space between words there is one, and none around them."""

    vocabulary = 256
    digest = ""

    def encode(self, text, length):
        """(numbers of at most `length` tokens, what of the text they leave out), cut behind a whole character."""
        text = " ".join(_writable(text).split())
        kept = text.encode()[:length].decode(errors="ignore")
        return list(kept.encode()), text[len(kept) :]


class Tokenizer:
    """That of a file. Tokens that it puts around each text, such as its end, are among those that are counted.

    Attributes:
      vocabulary: tokens that there are.
      digest: short text that changes with the file.
    """

    def __init__(self, path):
        """Raises errors.UserError: there is no such file, or it is no tokenizer."""
        try:
            import tokenizers
        except ImportError as error:
            raise errors.UserError(
                f"{path} is read by the package tokenizers, which is missing: pip install tokenizers"
            ) from error
        self._path = path
        with self._complaint(f"cannot read a tokenizer from '{path}'"):
            content = path.read_bytes()
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocabulary = 1 + max(self._tokenizer.get_vocab().values(), default=-1)  # there may be gaps
        self.digest = hashlib.sha256(content).hexdigest()[:12]

    def encode(self, text, length):
        """(numbers of at most `length` tokens, what of the text they leave out).

        Raises:
          errors.UserError: so few are no more than those around each text.
        """
        text = _writable(text)
        around = self._tokenizer.num_special_tokens_to_add(False)
        if length <= around:
            raise errors.UserError(
                f"config.data.caption_length is {length}, and the tokenizer puts {around} tokens around each text: choose more"
            )
        with self._complaint(f"the tokenizer {self._path} cannot read {text!r}"):
            found = self._tokenizer.encode(text, add_special_tokens=False)
            whole = len(found)
            found.truncate(length - around)
            rest = text[found.offsets[-1][1] :] if len(found) < whole else ""
            return self._tokenizer.post_process(found).ids, rest

    @contextlib.contextmanager
    def _complaint(self, begin):
        """What the package raises, Exception itself or the BaseException of a panic, as errors.UserError."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise errors.UserError(f"{begin} ({reason}): give the {FILE} of a model, or the folder that has it") from error


@functools.cache
def load(place):
    """The Bytes of '', the Tokenizer of the path of a file or of a folder that holds FILE. Raises errors.UserError."""
    if not place:
        return Bytes()
    path = pathlib.Path(place).expanduser()
    return Tokenizer(path / FILE if path.is_dir() else path)


def _writable(text):
    """A text without characters that UTF-8 has not."""
    return text.encode(errors="ignore").decode()
