"""What runs attempts: processes or containers of this machine, or scripts on a virtual clock."""

from __future__ import annotations
