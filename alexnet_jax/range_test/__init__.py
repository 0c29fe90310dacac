"""The learning rate range test (Smith 2015): which learning rates a net can be trained with."""
