"""When the parameters are updated in a step, and from which images."""
