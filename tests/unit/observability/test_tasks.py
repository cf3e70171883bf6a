"""Tasks are kept until they end, are named, and fail loudly."""

import asyncio
import gc

import pytest
from structlog.testing import capture_logs

from daemon.observability.tasks import spawn


async def test_a_task_that_nobody_holds_still_ends() -> None:
    gate = asyncio.Event()
    done = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await gate.wait()
        done.set_result("done")

    spawn(work(), name="work")
    await asyncio.sleep(0)
    gc.collect()
    gate.set()
    assert await done == "done"


async def test_a_failure_is_logged_with_the_name_of_the_task() -> None:
    async def fail() -> None:
        raise ValueError("why")

    with capture_logs() as logs:
        task = spawn(fail(), name="the failing one")
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert [(entry["event"], entry["task"], str(entry["exc_info"])) for entry in logs] == [
        ("task failed", "the failing one", "why")
    ]


async def test_a_cancelled_task_is_cancelled_and_not_a_failure() -> None:
    with capture_logs() as logs:
        task = spawn(asyncio.Event().wait(), name="waiting")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
    assert task.cancelled()
    assert logs == []
