"""The container starts fast because it imports little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROBE = """
import sys
import importlib, pkgutil
import batch_pipeline.container as package
for module in pkgutil.iter_modules(package.__path__):
    if module.name != "__main__":
        importlib.import_module(f"{package.__name__}.{module.name}")
names = {name for name in sys.modules if sys.modules[name] is not None}
known = {*sys.stdlib_module_names, "obstore", "batch_pipeline", "__main__"}
foreign = {name.partition(".")[0] for name in names} - known
ours = {".".join(name.split(".")[:2]) for name in names if name.startswith("batch_pipeline.")}
print(sorted(foreign), sorted(ours))
"""


def test_imports_stdlib_obstore_and_wire_alone(tmp_path: Path) -> None:
    # -S: the site-packages of a developer's machine may hook themselves into every start.
    paths = [str(Path(__file__).resolve().parents[2]), *(path for path in sys.path if path.endswith("site-packages"))]
    probe = f"import sys; sys.path += {paths!r}\n{PROBE}"
    done = subprocess.run([sys.executable, "-S", "-c", probe], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.strip() == "[] ['batch_pipeline.container', 'batch_pipeline.wire']"
