"""Prints an error that ends a pipeline's file while Python imports it as a sentence with file, line and its text.

The classes of steps are made before the command line has begun, so that `sys.excepthook` is the one place that sees a
mistake in them. An error from deeper, in a function, keeps its traceback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parents[1]
#: `inspect.CO_OPTIMIZED`: code of a function, not of a module or class.
_OF_FUNCTION: Final = 1
#: What a mistyped line of a module raises; in the body of a class any error is one of the pipeline.
_MISTAKES: Final = (NameError, AttributeError, TypeError, ImportError, SyntaxError)


def print_mistakes() -> None:
    """Installs the hook for a program that is a pipeline's file, unless there is another hook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file and sys.excepthook is sys.__excepthook__ and not Path(file).resolve().is_relative_to(_PACKAGE):
        sys.excepthook = _print_mistake


def _print_mistake(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A hook for `sys.excepthook`. Raises SystemExit, which then ends the process, for a mistake of the pipeline."""
    sentence = _sentence(error, trace) if isinstance(error, Exception) else ""
    if not sentence or "--verbose" in sys.argv:
        sys.__excepthook__(kind, error, trace)
    if sentence:
        from batch_pipeline.wire.contract import CommandExit

        print(f"Error: {sentence}\nCorrect the pipeline there.", file=sys.stderr)
        raise SystemExit(int(CommandExit.USAGE))


def _sentence(error: Exception, trace: TracebackType | None) -> str:
    """Place, what is wrong, and the text of the line; empty for an error that is no mistake in a module or class."""
    import linecache
    import traceback

    from batch_pipeline.wire.errors import BatchPipelineError

    if isinstance(error, SyntaxError) and error.filename and _is_of_pipeline(error.filename):
        text = (error.text or "").strip()
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}\n    {text}"
    frames = [
        (frame.f_code, line) for frame, line in traceback.walk_tb(trace) if _is_of_pipeline(frame.f_code.co_filename)
    ]
    if not frames or frames[-1][0].co_flags & _OF_FUNCTION:
        return ""
    code, line = frames[-1]
    if code.co_name == "<module>" and not isinstance(error, (*_MISTAKES, BatchPipelineError)):
        return ""
    words = "".join(traceback.TracebackException.from_exception(error).format_exception_only()).strip()
    message = error.message if isinstance(error, BatchPipelineError) else words.partition("\n")[0]
    return f"{code.co_filename}, line {line}: {message}\n    {linecache.getline(code.co_filename, line).strip()}"


def _is_of_pipeline(filename: str) -> bool:
    """Whether code is from a file that is neither this package's nor the interpreter's or installed for it."""
    file = Path(filename)
    others = (_PACKAGE, *(Path(folder).resolve() for folder in (sys.prefix, sys.base_prefix)))
    return file.is_file() and not any(file.resolve().is_relative_to(folder) for folder in others)
