"""Ctrl-C at a moment in which Python drops what a handler raises."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOST = """
import signal, sys, weakref
from batch_pipeline.run.interrupts import listen, pause

class Module:
    pass

if sys.argv[1] == "listen":
    listen()
module = Module()
callback = weakref.ref(module, lambda _: signal.raise_signal(signal.SIGINT))
del module
print("goes on", flush=True)
try:
    pause(0)
except KeyboardInterrupt:
    print("heard")
pause(0)
"""


@pytest.mark.parametrize(("word", "said"), [("listen", "goes on\nheard\n"), ("", "goes on\n")])
def test_what_was_pressed_while_nobody_could_hear_is_heard_at_the_next_pause(word: str, said: str) -> None:
    ran = subprocess.run([sys.executable, "-c", LOST, word], capture_output=True, text=True, check=True)
    assert ran.stdout == said
    assert "KeyboardInterrupt" in ran.stderr


def test_it_is_heard_at_once_where_that_is_possible() -> None:
    text = "import signal; from batch_pipeline.run.interrupts import listen; listen(); signal.raise_signal(2)"
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert ran.returncode == -2
    assert "KeyboardInterrupt" in ran.stderr


IMPORTS = """
import signal, sys, threading
from batch_pipeline.run.interrupts import listen

def strike(frame, event, function):
    if (event, frame.f_code.co_name, getattr(function, "__name__", "")) == ("c_return", sys.argv[1], "acquire_lock"):
        sys.setprofile(None)
        print("struck", flush=True)
        signal.getsignal(signal.SIGINT)(signal.SIGINT, frame)

listen()
other = threading.Thread(target=__import__, args=("wave",), daemon=True)
try:
    sys.setprofile(strike)
    import colorsys
    threading.Event().wait(30)
except KeyboardInterrupt:
    print("heard")
other.start()
other.join(20)
print("hangs" if other.is_alive() else "imported")
"""


@pytest.mark.parametrize("place", ["cb", "_get_module_lock"])
def test_one_that_strikes_in_an_import_leaves_no_lock_taken(place: str) -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORTS, place], capture_output=True, text=True, check=True)
    assert ran.stdout == "struck\nheard\nimported\n"
    assert ran.stderr == ""
