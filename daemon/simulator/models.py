"""Models of the simulated Bedrock: their ids, profiles and what each of them can do."""

import re
from dataclasses import dataclass

_UNDATED = (
    "claude-fable-5-2",
    "claude-fable-5-1",
    "claude-fable-5",
    "claude-opus-5-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-sonnet-5-5",
    "claude-sonnet-5",
    "claude-haiku-5-5",
)
_VERSIONED = (
    "claude-opus-4-6-v1",
    "claude-sonnet-4-6",
    "claude-opus-4-5-20251101-v1:0",
    "claude-sonnet-4-5-20250929-v1:0",
    "claude-haiku-4-5-20251001-v1:0",
    "claude-opus-4-1-20250805-v1:0",
)
BASES = tuple(f"anthropic.{name}" for name in (*_UNDATED, *_VERSIONED))
DEFAULT_BASE = "anthropic.claude-opus-5-5"  # behind an application profile of which nothing else is known
_VERSION = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2})(?!\d))?")
_FIRST_WITHOUT_VERSION = (4, 7)  # from here on ids carry no date, and the Messages route serves the model


@dataclass(frozen=True, slots=True)
class Model:
    """A model by its short name, which is also what answers call it."""

    name: str

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version; an unknown name counts as the newest."""
        found = _VERSION.match(self.name)
        return (int(found[1]), int(found[2] or 0)) if found else (99, 0)

    @property
    def recent(self) -> bool:
        """4.7 and later: adaptive thinking only, no sampling parameters, served by the Messages route."""
        return self.version >= _FIRST_WITHOUT_VERSION

    @property
    def can_force_tools(self) -> bool:
        """Whether `tool_choice` may name a tool; where thinking is always on it may not."""
        return self.name not in ("claude-fable-5-1", "claude-opus-5-5", "claude-sonnet-5-5")


def default_profiles() -> frozenset[str]:
    """Ids of the system-defined inference profiles."""
    return frozenset(f"{geo}.{base}" for base in BASES for geo in _geographies(base))


def model_of(model_id: str) -> Model:
    """The model behind a foundation model id or a profile id."""
    name = model_id.rpartition("anthropic.")[2]
    return Model(re.sub(r"-v\d+(:\d+)?$", "", name))


def _geographies(base: str) -> tuple[str, ...]:
    return ("global", "us") if "fable" in base else ("global", "us", "eu", "jp", "au")
