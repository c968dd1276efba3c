#!/bin/sh
# INPUT_TEXT is the sample's text, SAMPLE its name, OUTPUT_DIR where results are looked for.
set -eu
tr '[:upper:]' '[:lower:]' <"$INPUT_TEXT" >"$OUTPUT_DIR/$SAMPLE.lower.txt"
