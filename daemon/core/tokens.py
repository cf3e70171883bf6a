"""Token counts of one answer, as the provider reports them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Counts of one request, in tokens.

    `input` excludes what was read from or written to the prompt cache (Anthropic's convention, which Claude on
    Bedrock shares), so the size of the prompt is `prompt`. `thinking` is part of `output`, never added to it.
    """

    input: int = 0
    output: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    thinking: int = 0

    @property
    def prompt(self) -> int:
        """All tokens of the prompt: fresh, written to the cache and read from it."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read
