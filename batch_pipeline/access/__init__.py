"""Who may run which code on a dataset: policy, gate, and what is found out about code and image before it decides."""
