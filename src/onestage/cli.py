"""The command line: arguments -> one call of the Python interface each; no logic.

Exit status: 0 done; 1 failed, with one readable line; 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro
from tyro.conf import DisallowNone, subcommand

from onestage import __version__
from onestage.command import Command
from onestage.commands.data import Convert, Doctor, Recipes
from onestage.commands.models import Export, Import, Info, Predict, Push, Serve
from onestage.commands.training import Compare, Demo, Evaluate, Train, train_with_settings
from onestage.errors import UserError
from onestage.terminal import print_error, spell_out_what_streams_lack

_WHAT_IT_IS = (
    "Train object detectors (SSD, RetinaNet, M2Det, GFL) on your own images, measure them, and use them. "
    "--version tells the version alone."
)
_ALL = (Demo, Train, Evaluate, Compare, Predict, Export, Serve, Doctor, Convert, Import, Push, Info, Recipes)
COMMANDS: dict[str, type[Command]] = {command.__name__.lower(): command for command in _ALL}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of `arguments` (default: the process's), and exit."""
    spell_out_what_streams_lack()
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(words)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # whoever reads what is printed has enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the interpreter flushes what is left
        status = 1
    sys.exit(status)


def _run(words: list[str]) -> int:
    """The exit status of the command that the words of a command line ask for."""
    if words == ["--version"]:
        print(f"onestage {__version__}")
        return 0
    if "" in words:
        behind = " ".join(["onestage", *words[: words.index("")]])
        message = f"{behind} '': an empty word, as of a variable that is not set; give a name, or . for this folder"
        print_error(UserError(message), with_traceback=False)
        return 2
    commands = {**COMMANDS, "train": train_with_settings()} if words[:1] == ["train"] else COMMANDS
    union: Any = reduce(or_, (Annotated[command, subcommand(name)] for name, command in commands.items()))
    # Without DisallowNone, help texts would offer a None, too, that nobody needs to type.
    try:
        command = tyro.cli(union, args=words, prog="onestage", description=_WHAT_IT_IS, config=(DisallowNone,))
    except UserError as error:  # an option's value is out of its range
        print_error(error, with_traceback=False)
        return 2
    return command.status()
