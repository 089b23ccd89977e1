"""The one exception for what a user can mend. It lives in `runtime`, which is also shipped alone."""

from onestage.runtime.errors import UserError

__all__ = ["ReportedByAnotherRankError", "UserError"]


class ReportedByAnotherRankError(UserError):
    """The same error in a process whose user reads it elsewhere: of many processes, the first one prints."""
