"""Static analysis of a pipeline's Python code: which of it a step may use, read from the sources and never run.

`syntax` (normal form), `usage` (of one piece of code), `effects` and `statements` (of a module's top level), `modules`
(as imports find them), `help_texts` (which do not count), `reachable` (all of it, from a step's class on).
`pipeline.code` calls `reachable`.
"""
