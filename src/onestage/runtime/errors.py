"""The one exception for what a user can mend."""


class UserError(ValueError):
    """A mistake in what was given: files, names, values.

    Its text is one line that names the thing, the value, what was expected and the mend; the command line prints it
    without a traceback and exits with 1.
    """
