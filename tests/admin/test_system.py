"""The daemon about itself: status and the last minutes."""

from datetime import timedelta

import httpx

from daemon.store import migrate
from tests.admin.conftest import Plane
from tests.admin.test_usage import _fill
from tests.factories import NOON


async def test_the_status_tells_the_schema(admin: httpx.AsyncClient) -> None:
    status = (await admin.get("/admin/system/status")).json()
    assert (status["database_ok"], status["schema_revision"]) == (True, migrate.head())


async def test_the_last_minutes_are_summed_by_user_model_and_provider(plane: Plane, admin: httpx.AsyncClient) -> None:
    await _fill(plane, admin)  # five requests, one a minute, alice and bob in turn, the fourth failed
    plane.clock.instant = NOON + timedelta(seconds=30)
    stats = (await admin.get("/admin/system/stats?minutes=4")).json()
    assert (stats["total"]["requests"], stats["requests_per_minute"], stats["window_seconds"]) == (4, 1.0, 240)
    assert [(row["name"], row["requests"], row["errors"]) for row in stats["by_user"]] == [
        ("bob", 2, 1),
        ("alice", 2, 0),
    ]
    assert stats["total"]["cost_nano_usd"] == 100 + 101 + 102 + 103
    assert stats["total"]["cost_usd"] == "0.000000406"
    assert sum(row["requests"] for row in stats["by_provider"]) == 4
    none = (await admin.get("/admin/system/stats", params={"minutes": 0})).json()
    assert none["error"]["field"] == "minutes"
