"""Does what may take long for a request in threads of its own, so that the host's own files wait for nothing."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Answer = TypeVar("Answer")
THREADS = 2


class SlowWork:
    """Threads, and what waits for them in its order."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lora_loom")
        self.waiting = 0  # requests that have not begun

    async def run(self, work: Callable[[Any], Answer], given: Any) -> Answer:
        """The answer of a function, when its turn has come."""
        loop = asyncio.get_running_loop()
        self.waiting += 1

        def begun() -> None:
            self.waiting -= 1

        def act() -> Answer:
            loop.call_soon_threadsafe(begun)
            return work(given)

        return await loop.run_in_executor(self._pool, act)


HASHES = SlowWork(THREADS)  # a file of gigabytes takes many seconds each
LOOKS = SlowWork(THREADS)  # infos and previews, which a person waits for; they wait for no hash
