"""The exception for mistakes that a user can mend."""


class UserError(ValueError):
    """A mistake in what a user gave: files, names, values.

    Its text is one line that names the thing, the value, what was expected and the mend; where there is more to tell,
    several lines, an argument each. The command line prints it without a traceback and exits with 1.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))
