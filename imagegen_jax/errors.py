"""The one kind of error that is a person's to mend."""


class UserError(Exception):
    """Something that a person can get wrong: a config, a path, an image, a checkpoint, a device count.

    Its message is one line that says what is wrong, where, and how to mend it. The command line prints that line and exits
    with code 2; anything else that is raised is a defect of ours and keeps its traceback.
    """
