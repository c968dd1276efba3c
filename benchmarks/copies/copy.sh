#!/bin/sh -e
cp "$INPUT_X" "$OUTPUT_DIR/y"
