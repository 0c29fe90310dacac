"""The forms in which people have ImageNet, each as a catalogue of its images (§2)."""
