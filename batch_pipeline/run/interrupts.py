"""A Ctrl-C that is not lost.

Python drops an exception that comes up in the callback of a weak reference, as every import has one, or in a finalizer.
A KeyboardInterrupt that strikes there is printed, and the command goes on as if nobody had pressed anything. So it is
remembered, and raised at the next pause.

One that strikes between an import's taking the lock of all imports and its giving that back leaves it taken, and every
other thread's next import waits for ever. So within Python's own code of imports it waits until that is left.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from types import FrameType

_IMPORTS = "<frozen importlib"  # what the code of Python's imports calls its files
_MOMENT_S = 0.01  # between two looks whether an import is over

_pressed = False


def listen() -> None:
    """Remembers Ctrl-C from now on; where something else than Python's own handler waits for it, that stays."""
    global _pressed
    _pressed = False
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


def pause(seconds: float) -> None:
    """Sleeps. Raises KeyboardInterrupt at once if Ctrl-C was pressed before and nobody heard it."""
    global _pressed
    if _pressed:
        _pressed = False
        raise KeyboardInterrupt
    time.sleep(seconds)


def _handle(_number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed = True
    if frame is not None and frame.f_code.co_filename.startswith(_IMPORTS):
        _thread.start_new_thread(_press_again, (threading.get_ident(),))
        return
    raise KeyboardInterrupt


def _press_again(thread: int) -> None:
    time.sleep(_MOMENT_S)
    signal.pthread_kill(thread, signal.SIGINT)
