"""Why a child ended, from what AWS Batch says of it. The table of words and the table of codes are in `wire.contract`.

What is asked first wins: the status reason's words, then whether somebody cancelled it, then the container's words,
then the exit code. A cancelled or timed-out container is killed with 137 like one without memory, so codes come last.
"""

from __future__ import annotations

from batch_pipeline.wire.contract import REASON_OF_STATUS, EndReason


def end_reason(
    *, succeeded: bool, status_reason: str = "", container_reason: str = "", exit_code: int | None, cancelled: bool
) -> EndReason:
    """Why a child that has ended did so; LOST where nothing tells."""
    if succeeded:
        return EndReason.FINISHED
    by_status = reason_of_words(status_reason)
    if by_status is not None and by_status is not EndReason.IMAGE:
        return by_status
    if cancelled:
        return EndReason.CANCELLED
    # "Task failed to start" is vague; the container's reason is not.
    by_words = reason_of_words(container_reason) or by_status
    # FAILED with exit code 0, or with none, is nobody's verdict: the agent lost sight of the container.
    return by_words or (EndReason.of_exit(exit_code) if exit_code else EndReason.LOST)


def reason_of_words(text: str) -> EndReason | None:
    """What AWS's sentence means, or None for one that says nothing, such as `Essential container in task exited`."""
    lowered = text.strip().lower()
    return next((reason for words, reason in REASON_OF_STATUS if lowered.startswith(words.lower())), None)


def says_out_of_memory(text: str) -> bool:
    """Whether AWS's words, anywhere in a text, are those for out of memory; exit code 137 alone is any SIGKILL."""
    words = (words for words, reason in REASON_OF_STATUS if reason is EndReason.OUT_OF_MEMORY)
    return any(each.lower() in text.lower() for each in words)
