"""The operations of §3.3 to §3.5, each once in plain JAX; faster forms are tested against it."""
