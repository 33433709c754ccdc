"""The one exception that users are meant to read."""


class InputError(ValueError):
    """Bad input. The message is one line that names the setting or the file, and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """
