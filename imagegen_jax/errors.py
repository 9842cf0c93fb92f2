"""The one kind of error that is a person's to mend."""


class UserError(Exception):
    """Something that a person can get wrong: a config, a path, an image, a checkpoint, a device count.

    Its message is one line that says what is wrong, where, and how to mend it. The command line prints that line and exits
    with code 2; anything else that is raised is a defect of ours and keeps its traceback.

    Attributes:
      without_config: the message for a command that has no --config.
    """

    def __init__(self, message, setting="", otherwise=""):
        """Makes the error.

        Args:
          message: what is wrong and where; and how to mend it, unless the next two say so.
          setting: key and value of a config that mend it, such as 'data.on_bad_image=skip'.
          otherwise: how to mend it where there is no config to change.
        """
        message = _printable(message)
        super().__init__(f"{message}; set --config.{setting}" if setting else message)
        self.without_config = f"{message}; {otherwise}" if otherwise else str(self)


def _printable(text):
    """A text in one line, whatever a file or a person put into it: what does not print is escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def check_at_least(given, **least):
    """Raises UserError for the first of {name of a flag: value} that is given (not None) and less than its bound in `least`."""
    for name, bound in least.items():
        if given[name] is not None and given[name] < bound:
            raise UserError(f"--{name} is {given[name]}: it must be at least {bound}")
