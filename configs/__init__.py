"""The recipes: each file states the settings of a run by value (§5).

A config file is a Python file with a function `get_config()` that returns a ConfigDict. One of your
own may start from a recipe and change what differs; it can be kept in any folder:

    from alexnet_jax.configs import ilsvrc2012


    def get_config():
        c = ilsvrc2012.get_config()
        c.optimizer.batch_size = 256
        return c

    python -m alexnet_jax.main --config=PATH_OF_THAT_FILE

The folder is linked as `alexnet_jax/configs`, so that the import works in a checkout and in an
installed package.
"""
