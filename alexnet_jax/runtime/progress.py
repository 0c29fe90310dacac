"""How far long work on data is: what is done, how fast, and how long it will still take."""

from tqdm import tqdm


class Bars:
    """Progress on the screen; one bar at a time, which ends where a line is said."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._label = ''

    def __enter__(self) -> 'Bars':
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._end()
        print(line, flush=True)

    def listing(self, label: str, done: int, total: int) -> None:
        """A tar is being listed."""
        self._show(f'listing {label}', done, total, 'it', False)

    def bytes(self, label: str, done: int, total: int) -> None:
        """A file is being read whole."""
        self._show(f'MD5 of {label}', done, total, 'B', True)

    def images(self, done: int, total: int) -> None:
        """Images are being written."""
        self.reading('preparing', done, total)

    def reading(self, label: str, done: int, total: int) -> None:
        """Images are being read."""
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
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
