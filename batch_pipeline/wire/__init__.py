"""What both sides of the wire share: the container imports this package, the standard library and obstore alone.

    what is said     `contract` (variables, exit codes, reasons), `layout` (keys), `manifest`, `receipt`, `retirement`,
                     `order` (a driver's), `native_id`, `job` (what a step sees), `command` (a step's line for bash),
                     `errors`, `uncaught` (in a pipeline's file), `log_line`, `scrub` (no secrets),
                     `plain_text` (no escape sequences)
    where it lies    `store`, `s3`, `durable` (what outlasts a loss of power), `digest`, `git`,
                     `file_patterns` (of outputs)
    the host         `loopback`, `https` (for clients), `processes`, `orphans`, `daemon`, `scratch`, `toolchain`,
                     `tools` (what a step runs)

One flat room: each is used by both sides, and by most rooms alone; none is a part of another.
"""
