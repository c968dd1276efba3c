"""Where jobs run. Each backend obeys `base.Backend`; AWS Batch and the embedded one are the same code."""
