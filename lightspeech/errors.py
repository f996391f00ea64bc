"""The one exception for what a user gave us and we cannot work with."""


class InputError(ValueError):
    """User input that cannot be used: a file, a text, an option, a folder.

    The message is one line that says what was expected, what arrived and what to do next; the
    command lines print it as it is and exit with 1, without a traceback.
    """
