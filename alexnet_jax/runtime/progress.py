"""Progress bars for long data jobs: the fraction that is done, the speed and the time left."""

from tqdm import tqdm


class ProgressBars:
    """Progress bars on the terminal, one at a time; printing a line ends the current bar."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._label = ''

    def __enter__(self) -> 'ProgressBars':
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def print_line(self, line: str) -> None:
        """Prints a line that stays on the terminal."""
        self._end()
        print(line, flush=True)

    def show_listing(self, label: str, done: int, total: int) -> None:
        """Shows how much of a tar has been listed, in members."""
        self._show(f'listing {label}', done, total, 'it', False)

    def show_bytes(self, label: str, done: int, total: int) -> None:
        """Shows how much of a file has been hashed, in bytes."""
        self._show(f'MD5 of {label}', done, total, 'B', True)

    def show_preparing(self, done: int, total: int) -> None:
        """Shows how many images have been written to a data set."""
        self.show_images('preparing', done, total)

    def show_images(self, label: str, done: int, total: int) -> None:
        """Shows how many images have been read."""
        self._show(label, done, total, ' images', False)

    def _show(self, label: str, done: int, total: int, unit: str, scale: bool) -> None:
        if label != self._label:
            self._end()
            self._bar = tqdm(
                desc=label,
                initial=done,
                total=total,
                unit=unit,
                unit_scale=scale,
                mininterval=0.5,
                leave=False,
            )
            self._label = label
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._label = None, ''


def time_left(seconds: float) -> str:
    """Formats a duration as 1:02:03 or 2:03; a negative one as 0:00."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
