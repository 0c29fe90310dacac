"""Pictures that show what is trained: the first layer's filters, and training images."""
