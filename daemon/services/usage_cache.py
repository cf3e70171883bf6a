"""The prompt cache in figures."""

from collections.abc import Sequence
from fractions import Fraction

from daemon.contract.usage import CacheGroup, usd
from daemon.services.usage_figures import answer
from daemon.store.reports import FIGURES

_READ_SHARE = Fraction(1, 10)  # of the input price: what reading from the cache costs, at both providers


def cache_group(group: str, numbers: Sequence[int]) -> CacheGroup:
    """Hit ratio and cost of misses of one group."""
    misses = miss_cost(numbers)
    return CacheGroup(
        group=group,
        hit_ratio=hit_ratio(numbers),
        misses_cost_nano_usd=misses,
        misses_cost_usd=usd(misses),
        **answer(numbers),
    )


def hit_ratio(numbers: Sequence[int]) -> str | None:
    """The share of prompt tokens that came from the cache, rounded half up to four places."""
    of = dict(zip(FIGURES, numbers, strict=True))
    read = of["cache_read_tokens"]
    prompt = read + _missed_tokens(of)
    if not prompt:
        return None
    share = (read * 20_000 + prompt) // (prompt * 2)
    return f"{share // 10_000}.{share % 10_000:04d}"


def miss_cost(numbers: Sequence[int]) -> int:
    """Nano-dollars that uncached input and cache writes cost above the price of reading as many tokens."""
    of = dict(zip(FIGURES, numbers, strict=True))
    paid = of["input_cost_nano_usd"] + of["cache_write_5m_cost_nano_usd"] + of["cache_write_1h_cost_nano_usd"]
    as_reads = _missed_tokens(of) * _read_price(of)
    return paid - (as_reads.numerator * 2 + as_reads.denominator) // (as_reads.denominator * 2)


def _missed_tokens(of: dict[str, int]) -> int:
    return of["input_tokens"] + of["cache_write_5m_tokens"] + of["cache_write_1h_tokens"]


def _read_price(of: dict[str, int]) -> Fraction:
    """Nano-dollars a token; nothing is known without reads and without input, and then nothing was missed cheaply."""
    if of["cache_read_tokens"] and of["cache_read_cost_nano_usd"]:
        return Fraction(of["cache_read_cost_nano_usd"], of["cache_read_tokens"])
    if of["input_tokens"]:
        return Fraction(of["input_cost_nano_usd"], of["input_tokens"]) * _READ_SHARE
    return Fraction(0)
