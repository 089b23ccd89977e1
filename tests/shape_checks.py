"""The checker that the import hook of conftest.py puts around every function of the package."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int is a float, as PEP 484 and pyright have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
