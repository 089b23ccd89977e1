"""What all commands of the command line share: how options become a call, and how a command ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields

from onestage.errors import UserError
from onestage.terminal import print_error, start_command


@dataclass(frozen=True)
class Command:
    """Its fields are options; `run` calls a function of the Python interface."""

    verbose: bool = False
    """Show the traceback of a failure."""

    def call(self, function: Callable[..., object], *, without: Collection[str] = (), **more: object) -> None:
        """Call a function of the Python interface with the options that were given, by their names."""
        given: dict[str, object] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            given |= vars(value) if one.name == "postprocessing" else {one.name: value}
        left_out = (*without, "verbose")
        given = {name: value for name, value in given.items() if name not in left_out}
        given = {name: value for name, value in given.items() if value is not None and value is not False}
        function(**given, **more)

    def run(self) -> None:
        raise NotImplementedError

    def status(self) -> int:
        """Run the command; gives its exit status. Of an error that the user can mend, one line is printed.

        Raises:
            KeyboardInterrupt, BrokenPipeError: as in `run`.
        """
        display = start_command()
        try:
            try:
                self.run()
            finally:
                display.started()
        except (KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:
            for_user = _for_user(error)
            if for_user is None:
                raise
            print_error(for_user, with_traceback=self.verbose)
            return 1
        return 0


def _for_user(error: Exception) -> Exception | None:
    """What to print of an error that the user can mend; None for a fault of ours, which keeps its traceback."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{os.fspath(error.filename)}: " if isinstance(error.filename, str | os.PathLike) else ""
        return UserError(f"{name}{error.strerror}").with_traceback(error.__traceback__)
    if isinstance(error, UserError | OSError):
        return error
    from onestage.compute.memory import in_one_line, out_of_memory  # torch: whatever computes has imported it

    if not out_of_memory(error):
        return None
    mend = "use a smaller --batch-size, smaller images or a smaller detector, or free memory"
    for_user = UserError(f"{in_one_line(error)}; {mend}")
    for_user.__cause__ = error
    return for_user
