"""Examples of what goes over the wire, by schema. A test holds each against its model."""

from typing import Any

_ID = "01983f6a-7c00-7a31-8f00-5d0c6b1e2a10"
_KEY_ID = "01983f6a-8d10-7b02-9c44-0f7e8d9c1b20"
_AT = "2026-03-01T09:30:00Z"
_USER = {
    "id": _ID,
    "name": "alice",
    "description": None,
    "team": "platform",
    "is_active": True,
    "routing_strategy": "plan_first",
    "version": 1,
    "created_at": _AT,
    "updated_at": _AT,
}
_KEY = {
    "id": _KEY_ID,
    "user_id": _ID,
    "user_name": "alice",
    "name": "laptop",
    "key_prefix": "ak_3fK9Qx…",
    "status": "active",
    "expires_at": None,
    "previous_expires_at": None,
    "last_used_at": None,
    "limit_requests_per_minute": None,
    "limit_tokens_per_minute": None,
    "limit_concurrent_requests": 8,
    "version": 1,
    "created_at": _AT,
    "updated_at": _AT,
}
_TOKEN = {
    "id": _ID,
    "name": "ci",
    "token_prefix": "pt_8sD1…",
    "scopes": ["keys:write", "users:write"],
    "status": "active",
    "expires_at": "2026-06-01T00:00:00Z",
    "last_used_at": None,
    "created_at": _AT,
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "AccessKey": _KEY,
    "AccessKeyCreate": {"name": "laptop", "limit_concurrent_requests": 8},
    "AccessKeyRotate": {"grace_seconds": 300},
    "AccessKeyUpdate": {"expires_at": "2027-01-01T00:00:00Z", "limit_concurrent_requests": None},
    "BedrockKeySet": {
        "auth": "assume_role",
        "role_arn": "arn:aws:iam::123456789012:role/bedrock",
        "region": "us-east-1",
    },
    "BudgetStatus": {
        "user_id": _ID,
        "user_name": "alice",
        "team": "platform",
        "budget_usd": "200.000000000",
        "period": "monthly",
        "period_start": "2026-03-01T00:00:00Z",
        "resets_at": "2026-04-01T00:00:00Z",
        "spent_usd": "12.345678000",
        "reserved_usd": "0.410000000",
        "remaining_usd": "187.244322000",
        "percent": 6.4,
        "exceeded": False,
        "scope": "bedrock",
        "mode": "balanced",
        "version": 3,
    },
    "BudgetUpdate": {"budget_usd": "200.00", "period": "monthly"},
    "ErrorAnswer": {
        "error": {"type": "invalid", "message": "must not contain control characters", "field": "name"},
        "request_id": "req_01983f6a9e207c13ad550a8f9e0d2c30",
    },
    "ModelMappingCreate": {
        "claude_model": "claude-sonnet-4-5",
        "bedrock_model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    },
    "ModelMappingUpdate": {"bedrock_model": "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"},
    "PriceReload": {"dry_run": True},
    "Reprice": {"since": "2026-03-01T00:00:00Z", "until": "2026-04-01T00:00:00Z", "dry_run": True},
    "RoutingStrategyUpdate": {"routing_strategy": "bedrock_only"},
    "ServiceToken": _TOKEN,
    "ServiceTokenCreate": {
        "name": "ci",
        "scopes": ["users:write", "keys:write"],
        "expires_at": "2026-06-01T00:00:00Z",
    },
    "Session": {"username": "admin", "role": "admin", "scopes": ["admin"], "expires_at": "2026-03-01T10:00:00Z"},
    "User": _USER,
    "UserCreate": {"name": "alice", "team": "platform", "routing_strategy": "plan_first", "budget_usd": "200.00"},
    "UserCreated": _USER | {"result": "created"},
    "UserUpdate": {"team": None, "is_active": False},
}
