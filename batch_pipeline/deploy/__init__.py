"""Sets up what runs need: infrastructure, images, job definitions, code, references. Each part may be done again."""

from __future__ import annotations
