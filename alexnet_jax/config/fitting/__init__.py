"""Settings that follow from the images: what a config file's `fit` is given, and how it applies."""
