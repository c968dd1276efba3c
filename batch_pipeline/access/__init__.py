"""Who may run which code on a dataset: policy, gate, and the facts about code and image that it decides on."""
