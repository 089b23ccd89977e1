"""The one exception for what a user can mend. It lives in `runtime`, which is also shipped alone."""

from onestage.runtime.errors import UserError

__all__ = ["UserError"]
