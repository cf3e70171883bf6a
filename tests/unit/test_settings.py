"""Settings: everything that is wrong is said at once, by name, and no value is ever shown."""

import pytest

from daemon.settings import Settings, SettingsProblem, load_settings

SECRET = "k3yMat3rial-0123456789abcdefghijklmnop"
HASH = "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHQ$c29tZWhhc2g"


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("PROXY_DATABSE_URL", "x", "PROXY_DATABASE_URL"),
        ("PROXY_database_url", "x", "PROXY_DATABASE_URL"),
        ("PROXY_IDLE_TIMEOUT", "-1", ""),
        ("PROXY_IDLE_TIMEOUT", "0", ""),
        ("PROXY_IDLE_TIMEOUT", "5s", "seconds"),
        ("PROXY_IDLE_TIMEOUT", "abc", "seconds"),
        ("PROXY_ACCESS_KEY_CACHE_TTL", "maybe", "seconds"),
        ("PROXY_JWT_SECRET", "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE", "placeholder"),
        ("PROXY_JWT_SECRET", "short", "32 bytes"),
        ("PROXY_KEY_HASHER_SECRET", "a" * 40, "random"),
        ("PROXY_LOCAL_ENCRYPTION_KEY", "not 32 bytes", "32 bytes"),
        ("PROXY_LOCAL_ENCRYPTION_KEY", "00" * 31, "32 bytes"),
        ("PROXY_ADMIN_PASSWORD_HASH", "plain password", "argon2id"),
        ("PROXY_ADMIN_PASSWORD_HASH", HASH.replace("m=65536", "m=1024"), "weak"),
        ("PROXY_DATABASE_URL", "mysql://x", "postgresql+asyncpg"),
        ("PROXY_PLAN_API_URL", "ftp://x", "http"),
        ("PROXY_PLAN_API_URL", "https://user:pw@x", "credentials"),
        ("PROXY_PLAN_API_URL", "nowhere", "http"),
        ("PROXY_BUDGET_TIMEZONE", "Mars/Olympus", "IANA"),
        ("PROXY_LOG_LEVEL", "loud", "debug"),
    ],
)
def test_a_bad_value_is_named_and_never_shown(variable: str, value: str, word: str) -> None:
    problems = load_settings({variable: value})
    assert isinstance(problems, list)
    [problem] = problems
    assert problem.variable == variable
    assert word in problem.message
    assert value not in problem.message or len(value) < 4


def test_all_problems_come_at_once() -> None:
    problems = load_settings({"PROXY_TYPO": "1", "PROXY_JWT_SECRET": "x", "PROXY_DRAIN_MAX": "soon"})
    assert isinstance(problems, list)
    assert [problem.variable for problem in problems] == ["PROXY_TYPO", "PROXY_JWT_SECRET", "PROXY_DRAIN_MAX"]


def test_one_secret_for_two_purposes_is_refused() -> None:
    problems = load_settings({"PROXY_JWT_SECRET": SECRET, "PROXY_KEY_HASHER_SECRET": SECRET})
    assert isinstance(problems, list)
    assert "differ" in str(problems[0])


@pytest.mark.parametrize("value", [HASH, "ab" * 32, "$2b$12$" + "a" * 53])
def test_three_forms_of_password_hash_are_understood(value: str) -> None:
    assert isinstance(load_settings({"PROXY_ADMIN_PASSWORD_HASH": value}), Settings)


def test_nothing_set_is_fine_and_other_programs_variables_are_not_ours() -> None:
    settings = load_settings({"PATH": "/bin", "PROXY_SERVER": "http://x", "PROXY_JWT_SECRET": ""})
    assert isinstance(settings, Settings)
    assert settings.jwt_secret is None


def test_a_secret_does_not_show_in_the_settings() -> None:
    settings = load_settings({"PROXY_JWT_SECRET": SECRET, "PROXY_PLAN_API_KEY": "sk-ant-api03-x"})
    assert SECRET not in repr(settings)
    assert "sk-ant-api03-x" not in repr(settings)
    assert str(SettingsProblem("PROXY_X", "is wrong")) == "PROXY_X: is wrong"
