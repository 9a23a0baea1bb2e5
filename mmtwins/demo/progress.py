"""Progress of the demo with the time that is left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Meter:
    """Progress with time left: a bar in a terminal, a line every ten seconds elsewhere.

    Args:
        console: Where to show it.
        total: Units in all.
        unit: Their name.
        seconds: Expected time of all units, shown until the speed is known.
        done: Units that were done before.
    """

    def __init__(self, console: Console, total: int, unit: str, seconds: float, done: int = 0) -> None:
        self.console, self.total, self.unit, self.seconds = console, total, unit, seconds
        self.first, self.printed, self.complete = done, time.monotonic(), False
        self.started: float | None = None
        columns = (TextColumn('  '), BarColumn(40), TextColumn('{task.description}'))
        self.bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> 'Meter':
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task('starting', total=self.total, completed=self.first)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, note: str = '') -> None:
        """Show that ``done`` units are done; the time left follows from the speed since the first one."""
        now = time.monotonic()
        if done > self.first and self.started is None:
            # Before the first report the program loads; that time says nothing about the speed.
            self.started, self.first = now, done
        if done > self.first and self.started is not None:
            seconds = (now - self.started) / (done - self.first) * (self.total - done)
            left = readable_time(seconds)
        else:
            left = f'about {readable_time(self.seconds * (1 - done / self.total))}'
        text = f'{done}/{self.total} {self.unit}, {left} left' + (f'   {note}' if note else '')
        if self.bar:
            self.bar.update(self.task, completed=done, description=text)
        elif now - self.printed >= 10 or (done == self.total and not self.complete):
            self.printed, self.complete = now, done == self.total
            self.console.print(f'  {text}', highlight=False)


def readable_time(seconds: float) -> str:
    """Seconds, or minutes and seconds from 90 s on."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{seconds:.0f} s' if seconds < 90 else f'{minutes} min {rest} s'
