"""Progress bars on the terminal, with the time left; nothing of them is written to stdout or into files."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar('T')


def new_bar(title: str, **options: Any) -> Any:
    """Make a progress bar of rich on stderr: steps done and to do, time passed and time left.

    Args:
        title: Text beside the bar.
        options: Options of ``rich.progress.Progress``.

    Returns:
        The bar, a ``rich.progress.Progress``.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        """From the mean of all steps; rich's own column waits for several, and steps here may take minutes."""

        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            left = seconds_left(task.elapsed or 0, task.completed, task.total)
            return Text('left: -:--:--' if left is None else f'left: {timedelta(seconds=round(left))}')

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeLeft())
    # On a terminal, printed lines go through the bar's console and appear above the bar. Into a pipe they go as they are.
    return Progress(*columns, **{'console': Console(stderr=True), 'redirect_stdout': sys.stdout.isatty(), **options})


def seconds_left(elapsed: float, done: float, total: float | None) -> float | None:
    """Estimate the time until all steps are done, if they take as long as those before.

    Args:
        elapsed: Seconds until now.
        done: Number of steps that are done.
        total: Number of all steps, if it is known.

    Returns:
        Seconds; None where nothing is known yet.
    """
    if total is None or (not done and total):
        return None
    return elapsed / done * max(total - done, 0) if done else 0.0


@contextmanager
def stepping(title: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a progress bar while the block runs, if there is a terminal.

    Args:
        title: Text beside the bar.
        total: Number of steps, if it is known.

    Yields:
        A function to call after each step.
    """
    try:
        from rich.console import Console
    except Exception:  # missing or broken: `mmtwins doctor` works on
        yield lambda: None
        return
    console = Console(stderr=True)
    with new_bar(title, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task('', total=total)
        yield lambda: bar.advance(task)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner and the seconds while the block runs, if there is a terminal.

    Args:
        what: Happens meanwhile.
    """
    try:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except Exception:  # missing or broken, as in stepping
        yield
        return
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(what), TimeElapsedColumn())
    # Loggers that are made meanwhile must get the true streams.
    options: dict[str, Any] = dict(transient=True, redirect_stdout=False, redirect_stderr=False)
    with Progress(*columns, console=console, disable=not console.is_terminal, **options) as spinner:
        spinner.add_task('', total=None)
        yield


def follow(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Iterate over items with a progress bar, see :func:`stepping`.

    Args:
        items: The items.
        title: Text beside the bar, which says what happens to the items.
        total: Number of items; None takes ``len``.

    Yields:
        The items.
    """
    with stepping(title, len(items) if total is None and isinstance(items, Sized) else total) as step:
        for item in items:
            yield item
            step()
