"""The files of a run beside its checkpoints: its settings, metrics and TensorBoard events."""
