"""Options of XLA for one compilation, in the flags of the benchmarks."""

from absl import flags

WORDS = {'true': True, 'false': False}  # which XLA does not take as text


def parse(text: str) -> dict[str, str | bool]:
    """Returns the options of a text such as NAME=VALUE;NAME=VALUE, for `compiler_options`."""
    pairs = (pair.split('=', 1) for pair in text.split(';') if pair)
    return {name: WORDS.get(value, value) for name, value in pairs}


def validate(flag: flags.FlagHolder) -> None:
    """Makes a flag, or each of its values where it may be repeated, accept such texts only."""

    def is_valid(value: str | list[str]) -> bool:
        texts = [value] if isinstance(value, str) else value
        return all('=' in pair for text in texts for pair in text.split(';') if pair)

    flags.register_validator(flag.name, is_valid, 'e.g. xla_gpu_enable_command_buffer=')
