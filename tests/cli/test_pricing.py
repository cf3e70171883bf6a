"""`proxyctl pricing` against a real daemon; two replicas that follow a reload; prices that are configured."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.core.price_sheets import PriceSheetError
from daemon.price_sources import price_layers
from daemon.settings import Settings, SettingsProblem, load_settings
from daemon.simulator.script import Step
from tests.cli.test_circuits import NOWHERE
from tests.cli.test_cli import Shell, proxyctl
from tests.support.daemon import RunningDaemon, running_daemon
from tests.support.simulator import running_simulator

OPUS = {
    "input_price_per_million": "5",
    "output_price_per_million": "30",
    "cache_write_price_per_million": "6",
    "cache_read_price_per_million": "0.4",
}
SHEET = {"plan": {"global": {"claude-opus-5-5": OPUS}}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(SHEET, indent=1))
    return path


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        yield Shell(daemon.url, await daemon.admin_token())


async def test_prices_are_listed_compared_and_loaded(cli: Shell, file: Path) -> None:
    listed = await cli("pricing", "list", "--provider", "plan", "--model", "claude-opus-5-5")
    rows = [line.split("\t") for line in listed.out.splitlines()]
    assert rows[0][:9] == ["plan", "global", "claude-opus-5-5", "standard", "4", "20", "5", "8", "0.2"]
    assert [row[3] for row in rows] == ["standard", "fast", "inference in us"]
    assert rows[2][4] == "x 1.1"
    haiku = await cli("pricing", "list", "--region", "eu", "--model", "claude-haiku-5-5")
    assert "over 100000 tokens" in haiku.out

    different = await cli("pricing", "diff", str(file))
    assert (different.code, "output 20 -> 30" in different.out, different.out[:2]) == (8, True, "~\t")
    loaded = await cli("pricing", "reload", "--file", str(file))
    assert (loaded.code, loaded.err) == (0, "0 added, 1 changed, 0 removed.\n")
    same = await cli("pricing", "diff", "-", stdin=json.dumps(SHEET))
    assert (same.code, same.out) == (0, "")
    shown = await cli("pricing", "list", "--provider", "plan", "--model", "claude-opus-5-5", "-o", "json")
    [opus] = json.loads(shown.out)["items"]
    assert (opus["output_price_per_million"], opus["source"]) == ("30", "uploaded")
    back = await cli("pricing", "reload", "-o", "json")
    assert json.loads(back.out)["items"][0]["new"]["output"] == "20"


async def test_a_sheet_that_the_daemon_refuses_is_exit_7_with_line_and_reason(cli: Shell, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"plan": {"global": {\n  "claude-opus-5-5": {}}}}')
    for command in (("reload", "--file", str(bad)), ("diff", str(bad))):
        refused = await cli("pricing", *command)
        assert (refused.code, refused.out) == (7, "")
        assert "line 2, column 22: claude-opus-5-5, plan, global: input_price_per_million is missing" in refused.err
    far = json.dumps({"plan": {"global": {"claude-opus-5-5": OPUS | {"output_price_per_million": "0.00003"}}}})
    assert (await cli("pricing", "reload", "--file", "-", stdin=far)).code == 7
    assert (await cli("pricing", "reload", "--file", "-", "--force", stdin=far)).code == 0


async def test_a_sheet_is_validated_without_a_daemon(tmp_path: Path, file: Path) -> None:
    assert (await proxyctl("pricing", "validate", str(file))).err == "ok\n"
    packaged = Path(__file__).parents[2] / "daemon" / "data" / "models.json"
    assert (await proxyctl("pricing", "validate", str(packaged))).code == 0
    bad = await proxyctl("pricing", "validate", "-", stdin='{\n "us": {"claude-opus-5-5": {"fast": 3,}}}')
    assert (bad.code, bad.out) == (1, "")
    assert bad.err.startswith("error: -: line 2, column ")
    several = await proxyctl("pricing", "validate", "-", "-o", "json", stdin='{"us": {"a": {}}, "mars": {"b": {}}}')
    assert (several.code, json.loads(several.err)["error"]["message"].count("line 1")) == (1, 5)
    missing = await proxyctl("pricing", "validate", str(tmp_path / "none.json"))
    assert (missing.code, "cannot be read" in missing.err) == (2, True)
    (tmp_path / "latin").write_bytes(b"\xff")
    assert "is not UTF-8" in (await proxyctl("pricing", "validate", str(tmp_path / "latin"))).err


async def test_history_is_priced_anew(tmp_path: Path, file: Path) -> None:
    async with running_simulator() as (simulator, plan), running_daemon(tmp_path, plan) as daemon:
        cli = Shell(daemon.url, await daemon.admin_token())
        key = await daemon.create_key()
        simulator.script(Step(usage={"input": 0, "output": 1_000_000}))
        async with httpx.AsyncClient(base_url=daemon.url) as client:
            body = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
            assert (await client.post(f"/ak/{key}/v1/messages", json=body)).status_code == 200
        await daemon.runtime.ledger.flush()
        await cli("pricing", "reload", "--file", str(file))
        asked = await cli("pricing", "reprice", "--from", "2026-01-01")
        assert (asked.code, "--yes is required" in asked.err) == (2, True)
        dry = await cli("pricing", "reprice", "--from", "2026-01-01", "--dry-run")
        assert dry.out == "plan\tclaude-opus-5-5\t1\t1\t$20.00\t$30.00\n"
        assert dry.err == "1 rows, 1 would change: $20.00 -> $30.00 (+$10.00).\n"
        done = await cli("pricing", "reprice", "--from", "2026-01-01", "--yes", "-o", "json")
        assert (json.loads(done.out)["changed"], json.loads(done.out)["after_nano_usd"]) == (1, 30 * 10**9)
        again = await cli("pricing", "reprice", "--from", "2026-01-01T00:00:00+02:00", "--to", "2099-01-01", "--yes")
        assert again.err.startswith("1 rows, 0 changed: $30.00")
        assert (await cli("pricing", "reprice", "--from", "yesterday", "--yes")).code == 2
        assert [record["cost_nano_usd"] for record in await daemon.records()] == [30 * 10**9]


async def test_a_model_without_a_price_is_charged_the_dearest_one_and_named_in_the_status(tmp_path: Path) -> None:
    async with running_simulator() as (_, plan), running_daemon(tmp_path, plan) as daemon:
        key = await daemon.create_key()
        headers = {"authorization": f"Bearer {await daemon.admin_token()}"}
        async with httpx.AsyncClient(base_url=daemon.url, headers=headers) as client:
            body = {"model": "claude-of-tomorrow", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
            await client.post(f"/ak/{key}/v1/messages", json=body)
            [record] = await daemon.records()
            facts = (await client.get("/admin/system/status")).json()["facts"]
        assert (record["estimated"], record["cost_nano_usd"] > 0) == (True, True)
        assert facts["prices_unknown"] == [{"provider": "plan", "model": "claude-of-tomorrow"}]
        assert facts["price_sheet"] == daemon.runtime.services.pricing.sheet.sheet_id


async def _output_price(daemon: RunningDaemon) -> str:
    [found] = daemon.runtime.services.pricing.list_prices(provider="plan", model="claude-opus-5-5").items
    return found.output_price_per_million


async def test_a_reload_reaches_the_other_replica(tmp_path: Path, database_url: str, file: Path) -> None:
    variables = {"PROXY_DATABASE_URL": database_url, "PROXY_PRICING_FILE": str(file)}
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(running_daemon(tmp_path / name, NOWHERE, **variables))
            for name in ("one", "two")
        ]
        cli = Shell(one.url, await one.admin_token())

        async def takes(price: str) -> float:
            started = time.monotonic()
            while await _output_price(two) != price:
                assert time.monotonic() - started < 5
                await asyncio.sleep(0.02)
            return time.monotonic() - started

        assert [await _output_price(daemon) for daemon in (one, two)] == ["30", "30"]
        upload = json.dumps({"plan": {"global": {"claude-opus-5-5": OPUS | {"output_price_per_million": "31"}}}})
        assert (await cli("pricing", "reload", "--file", "-", stdin=upload)).code == 0
        assert await _output_price(one) == "31"
        assert await takes("31") < 2.5
        file.write_text(upload.replace('"31"', '"32"'))
        assert (await cli("pricing", "reload")).code == 0
        assert await takes("32") < 2.5


def variables(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"PROXY_DATA_DIR": str(tmp_path / "data")} | more


async def test_configured_prices_that_cannot_be_used_end_the_start_with_exit_2(tmp_path: Path, file: Path) -> None:
    environment = variables(tmp_path, PROXY_MODEL_PRICING='{"us": {"claude-opus-5-5": 3}}')
    for command in ("check", "run"):
        done = await proxyctl("daemon", command, *(["--port", "0"] if command == "run" else []), **environment)
        assert (done.code, "PROXY_MODEL_PRICING: line 1, column 28" in done.err) == (2, True), done.err
    missing = await proxyctl("daemon", "check", **variables(tmp_path, PROXY_PRICING_FILE=str(tmp_path / "none")))
    assert (missing.code, "cannot be read: No such file" in missing.err) == (2, True)
    good = await proxyctl("daemon", "check", **variables(tmp_path, PROXY_PRICING_FILE=str(file)))
    assert good.code == 0


def test_the_environment_is_over_the_file_and_both_are_read_again(tmp_path: Path, file: Path) -> None:
    def now(**values: str) -> Settings | list[SettingsProblem]:
        return load_settings(values)

    both = {"PROXY_PRICING_FILE": str(file), "PROXY_MODEL_PRICING": json.dumps(SHEET)}
    assert [layer.source for layer in price_layers(lambda: now(**both))] == ["file", "environment"]
    assert price_layers(lambda: now()) == []
    with pytest.raises(PriceSheetError, match="settings: PROXY_NONSENSE"):
        price_layers(lambda: now(PROXY_NONSENSE="1"))


async def test_a_daemon_started_with_a_file_of_variables_reads_it_again(tmp_path: Path) -> None:
    from proxyctl.commands.daemon import _reread

    path = tmp_path / ".env"
    path.write_text("PROXY_MODEL_PRICING={}\n")
    found: Any = _reread(path)
    assert found.model_pricing == "{}"
    path.write_text("no variable")
    assert "expected NAME=value" in str(_reread(path))
