"""Names of what migrations keep in a plugin's own schema; no plugin can name them, they begin with `_`."""

from typing import Final

__all__ = ["VERSION_TABLE"]

VERSION_TABLE: Final = "_rosey_version"
"""One row, the revision at which the schema stands; none before the first. It commits with the run."""
