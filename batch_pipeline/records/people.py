"""Who is at this machine."""

from __future__ import annotations

import getpass
import os


def user_name() -> str:
    """The login name, or the numeric id when there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
