"""The task pool: a table of tasks that pilots claim, run and settle. One protocol (`base`), several stores."""
