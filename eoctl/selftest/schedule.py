"""Virtual time, and who runs: one task at a time, chosen by the order of wake-ups and by nothing else.

A task is a thread that runs only while it holds the baton; it hands it on when it sleeps. So whatever tasks do between
two sleeps is atomic, and a run depends on nothing but what the tasks do. Nobody waits for real time.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable

STACK_BYTES = 1 << 20


class Stopped(BaseException):
    """The run is over; the task unwinds. No `Exception`, so that nothing of ours may catch it."""


class Task:
    """A thread of the simulation, and what it waits for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.baton = threading.Lock()
        self.baton.acquire()
        self.thread: threading.Thread | None = None


class Scheduler:
    """The clock of the simulation. Whoever makes it holds the baton and is the task `main`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.over = False
        self.failure: BaseException | None = None
        self.main = Task("main")
        self.current = self.main
        self._queue: list[tuple[float, int, Task | Callable[[], None]]] = []
        self._serial = 0
        self._tasks: list[Task] = []

    def spawn(self, name: str, work: Callable[[], None], delay: float = 0.0) -> None:
        """`work` begins after so many seconds, as a task of its own."""
        task = Task(name)
        task.thread = threading.Thread(target=self._run, args=(task, work), name=name, daemon=True)
        self._tasks.append(task)
        task.thread.start()
        self._push(delay, task)

    def at(self, delay: float, event: Callable[[], None]) -> None:
        """`event` happens after so many seconds, between the steps of tasks."""
        self._push(delay, event)

    def sleep(self, seconds: float) -> None:
        """The current task goes on after so many seconds; others may run meanwhile."""
        if self.over:
            raise Stopped
        task = self.current
        self._push(seconds, task)
        self._pass_on(task)

    def drain(self) -> None:
        """Every other task has ended and every event has happened."""
        while self._queue:
            self.sleep(max(0.0, self._queue[0][0] - self.now) + 1.0)
            if self.failure is not None:
                return

    def close(self) -> None:
        """Every task is gone, wherever it was."""
        self.over = True
        for task in self._tasks:
            if task.thread is not None and task.thread.is_alive():
                task.baton.release()
                task.thread.join()
        self._tasks.clear()
        self._queue.clear()

    def _push(self, delay: float, item: Task | Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + delay, self._serial, item))

    def _run(self, task: Task, work: Callable[[], None]) -> None:
        task.baton.acquire()
        if self.over:
            return
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (told by main, whatever it is)
            if self.over:
                return
            self._fail(error)
        if self.over:
            return
        self._tasks.remove(task)
        self._pass_on(None)

    def _fail(self, error: BaseException) -> None:
        """The first failure ends the run: main is next."""
        if self.failure is None:
            self.failure = error
        self._queue = [(self.now, 0, self.main)]

    def _pass_on(self, task: Task | None) -> None:
        """The next one runs; returns when it is the turn of `task` again."""
        while True:
            self.now, _, item = heapq.heappop(self._queue)
            if isinstance(item, Task):
                break
            try:
                item()
            except BaseException as error:  # noqa: BLE001  (likewise)
                self._fail(error)
        self.current = item
        if item is task:
            return
        item.baton.release()
        if task is not None:
            task.baton.acquire()
            if self.over:
                raise Stopped
