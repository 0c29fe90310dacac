"""Compiling programs for GPUs and TPUs that are not attached, and counting what they do."""
