"""Adds the code of the main package of a checkout; in the source distribution made of it, the code is there already."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "onestage_runtime"


class Code(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not Path(self.root, NAME).is_dir():
            build_data["force_include"][str(Path(self.root).parent / "src" / "onestage" / "runtime")] = NAME
