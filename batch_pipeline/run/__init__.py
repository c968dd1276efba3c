"""Acts on a plan: records, submits, watches, and tells what came of it."""
