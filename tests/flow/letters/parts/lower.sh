#!/bin/sh
# What the text says in capitals at the beginning of a line, happens: WAIT FILE, FAIL, KILLED, SILENCED, HUNGRY.
set -eu
gate=$(sed -n 's/^WAIT //p' "$INPUT_TEXT")
turns=0
while [ -n "$gate" ] && [ ! -e "$gate" ]; do
    turns=$((turns + 1))
    [ "$turns" -lt 3000 ] || exit 9
    sleep 0.02
done
if grep -q '^FAIL' "$INPUT_TEXT"; then
    echo "the text of $SAMPLE cannot be read" >&2
    exit 3
fi
if grep -q '^KILLED' "$INPUT_TEXT"; then
    kill -9 $$
fi
if grep -q '^SILENCED' "$INPUT_TEXT"; then
    kill -9 $PPID $$
fi
if grep -q '^HUNGRY' "$INPUT_TEXT"; then
    python3 -c 'import time; taken = b"x" * (150 << 20); time.sleep(5)'
fi
tr '[:upper:]' '[:lower:]' <"$INPUT_TEXT" >"$OUTPUT_DIR/$SAMPLE.lower.txt"
