"""The CI recipes that we ship, run as a shell would run them, against a real daemon."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import proxyctl
from tests.cli.test_ci_job import BEDROCK_API_KEY, SCOPES
from tests.cli.test_cli import Shell
from tests.support.daemon import running_daemon

EXAMPLES = Path(proxyctl.__file__).parent / "examples"
NOWHERE = "http://127.0.0.1:9"


def github() -> dict[str, list[str]]:
    document = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    return {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in document["jobs"].items()}


def gitlab() -> dict[str, list[str]]:
    document = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())
    jobs: dict[str, Any] = {name: job for name, job in document.items() if isinstance(job, dict) and "script" in job}
    return {name: ["\n".join(job["script"])] for name, job in jobs.items()}


class Runner:
    """A CI runner's shell: a checkout with the manifest, secrets in the environment, no terminal, no home."""

    def __init__(self, folder: Path, url: str, token: str) -> None:
        self.folder = folder
        shutil.copy(EXAMPLES / "manifest.yaml", folder)
        binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        secrets = {"PROXY_SERVER": url, "PROXY_ADMIN_TOKEN": token, "BEDROCK_API_KEY": BEDROCK_API_KEY}
        self.environment = {
            "PATH": binaries,
            "CI": "true",
            "HOME": "/nonexistent",
            "RUNNER_TEMP": str(folder),
        } | secrets

    async def __call__(self, blocks: list[str]) -> tuple[int, str]:
        """The exit code of the first block that fails, and all output."""
        output = ""
        for block in blocks:
            done = await asyncio.to_thread(
                subprocess.run,
                ["bash", "-e", "-o", "pipefail", "-c", block],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            output += done.stdout + done.stderr
            if done.returncode:
                return done.returncode, output
        return 0, output


@pytest.mark.parametrize("jobs", [github(), gitlab()], ids=["github", "gitlab"])
async def test_a_recipe_applies_finds_drift_and_rotates(tmp_path: Path, jobs: dict[str, list[str]]) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    async with running_daemon(tmp_path, NOWHERE, PROXY_LOCAL_ENCRYPTION_KEY="0f" * 32) as daemon:
        admin = Shell(daemon.url, await daemon.admin_token())
        asked = [word for scope in SCOPES for word in ("--scope", scope)]
        token = (await admin("tokens", "create", "ci", *asked, "--expires", "90d", "-q")).out.strip()
        run = Runner(folder, daemon.url, token)
        for name in ("plan", "apply", "drift"):
            code, output = await run(jobs.get(name, []))
            assert code == 0, output
            assert BEDROCK_API_KEY not in output
        listed = json.loads((await admin("keys", "list", "-o", "json")).out)["items"]
        assert [key["name"] for key in listed] == ["runner"]
        assert (await admin("routing", "set", "ci-runners", "plan_only")).code == 0
        code, output = await run(jobs["drift"])
        assert (code, "plan_only -> bedrock_first" in output) == (1 if "rotate" in jobs else 8, True), output
        code, output = await run(jobs.get("rotate", []))
        assert code == 0, output
        assert "ak_" not in output.replace("(ak_", "")  # but for the prefix that may be shown
