"""The one exception for what a user can mend. It lives in `runtime`, which is also shipped alone."""

from onestage.runtime.errors import UserError

__all__ = ["PassingError", "ReportedByAnotherRankError", "UserError"]


class PassingError(UserError):
    """An error that may not come again when the same command is started again: a process died, a connection broke."""


class ReportedByAnotherRankError(UserError):
    """The same error in a process whose user reads it elsewhere: of many processes, the first one prints."""
