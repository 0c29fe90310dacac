"""Where the batches of a run come from (§2): the loader, or images that stay on the devices."""
