"""The failure table, a property test of circuits against a model, and the order of providers."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemon.core.circuit import (
    CLOSED,
    PROBE_SECONDS,
    WINDOW_SECONDS,
    Circuit,
    Policy,
    State,
    failed,
    probing,
    succeeded,
)
from daemon.core.failure import (
    TABLE,
    Subject,
    cool_down,
    of_bedrock_answer,
    of_plan_answer,
    of_stream_error,
    of_transport,
)
from daemon.core.strategy import NoRoute, Route, plan_route
from daemon.upstreams.base import FailureKind

NOW = 1_800_000_000.0


def plan(status: int, message: str = "", *, shared: bool = True, **error: object) -> str:
    document = {"type": "x", "message": message} | error
    return of_plan_answer(status, {}, error=document, shared_credential=shared, now=NOW).kind


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (429, "see the response headers for current usage", "rate_limited"),
        (429, "Extra usage is required for long context requests.", "tier_limit"),
        (400, "You have reached your specified API usage limits.", "spend_limit"),
        (400, "You are out of extra usage", "spend_limit"),
        (400, "messages: roles must alternate", "request_rejected"),
        (402, "", "spend_limit"),
        (404, "model: nothing", "model_not_found"),
        (408, "", "timeout"),
        (413, "", "request_rejected"),
        (500, "", "server_error"),
        (504, "", "timeout"),
        (529, "", "overloaded"),
        (401, "", "own_credential_refused"),
        (403, "", "own_credential_refused"),
    ],
)
def test_an_answer_of_the_plan_is_judged_by_status_and_text(status: int, message: str, kind: str) -> None:
    assert plan(status, message) == kind


def test_a_spend_limit_that_names_itself_is_one_whatever_its_status() -> None:
    assert plan(429, "limit", details={"error_code": "enforced_spend_limit_reached"}) == "spend_limit"


def test_an_answer_without_an_error_object_is_no_answer_of_the_api() -> None:
    verdict = of_plan_answer(403, {}, error=None, shared_credential=False, now=NOW)
    assert (verdict.kind, verdict.fallback) == ("not_an_api_answer", True)


def test_a_limit_counts_against_whoever_has_the_credential() -> None:
    shared = of_plan_answer(429, {}, error={}, shared_credential=True, now=NOW)
    own = of_plan_answer(429, {}, error={}, shared_credential=False, now=NOW)
    assert (shared.counts, shared.subject) == ("credential", Subject.OUR_CREDENTIAL)
    assert (own.counts, own.subject) == ("access_key", Subject.CLIENT_CREDENTIAL)


def test_a_refused_login_is_the_clients_own_and_goes_nowhere_else() -> None:
    verdict = of_plan_answer(401, {}, error={}, shared_credential=False, now=NOW)
    assert (verdict.kind, verdict.fallback, verdict.counts) == ("credential_refused", False, "nothing")


@pytest.mark.parametrize("kind", [kind.value for kind in FailureKind if kind is not FailureKind.ABORTED])
def test_every_way_a_connection_fails_has_a_row(kind: str) -> None:
    assert of_transport(kind).fallback


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("ThrottlingException", 429, "rate_limited"),
        ("ServiceQuotaExceededException", 400, "rate_limited"),
        ("ModelNotReadyException", 429, "overloaded"),
        ("AccessDeniedException", 403, "own_credential_refused"),
        ("ValidationException", 400, "unsupported"),
        ("UnknownOperationException", 200, "unknown_operation"),
        ("", 404, "model_unavailable"),
        ("", 503, "overloaded"),
        ("SomethingNew", 500, "server_error"),
        ("SomethingNew", 418, "request_rejected"),
    ],
)
def test_an_error_of_bedrock_is_judged_by_its_name_and_else_by_its_status(name: str, status: int, kind: str) -> None:
    assert of_bedrock_answer(status, name).kind == kind


def test_an_error_event_of_an_unknown_type_is_a_server_error() -> None:
    assert of_stream_error("brand_new_error", shared_credential=False).kind == "server_error"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"20"}, 20.0),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"-5"}, None),
        (
            {b"anthropic-ratelimit-unified-status": b"rejected", b"anthropic-ratelimit-unified-reset": b"1800000600"},
            600,
        ),
        (
            {b"retry-after": b"13262", b"anthropic-ratelimit-unified-fallback-percentage": b"0.5"},
            60.0,
        ),
        ({b"retry-after": b"900", b"anthropic-ratelimit-unified-status": b"allowed_warning"}, 60.0),
    ],
)
def test_the_providers_own_word_on_when_to_come_back_is_read(
    headers: dict[bytes, bytes], seconds: float | None
) -> None:
    assert cool_down(headers, NOW) == seconds


def test_every_row_that_counts_against_something_lets_another_provider_serve() -> None:
    assert all(row.fallback for row in TABLE.values() if row.counts != "nothing")


@pytest.mark.parametrize(
    ("strategy", "available", "sticky", "order"),
    [
        ("plan_first", ("plan", "bedrock"), None, ("plan", "bedrock")),
        ("plan_first", ("bedrock",), None, ("bedrock",)),
        ("plan_first", ("plan", "bedrock"), "bedrock", ("bedrock", "plan")),
        ("plan_only", ("plan", "bedrock"), "bedrock", ("plan",)),
        ("bedrock_first", ("plan", "bedrock"), None, ("bedrock", "plan")),
        ("bedrock_only", ("plan", "bedrock"), "plan", ("bedrock",)),
    ],
)
def test_the_order_of_providers(strategy: str, available: tuple, sticky: str | None, order: tuple) -> None:  # type: ignore[type-arg]
    assert plan_route(strategy, available=available, sticky=sticky) == Route(order)  # type: ignore[arg-type]


def test_a_strategy_whose_providers_are_not_at_hand_has_no_route() -> None:
    assert plan_route("bedrock_only", available=("plan",), sticky=None) == NoRoute(("bedrock",))


POLICY = Policy(threshold=3, reset_timeout=1800.0)


def failure(circuit: Circuit, now: float, *, cool: float | None = None, jitter: float = 0.0) -> Circuit:
    return failed(circuit, "overloaded", now=now, cool_down=cool, policy=POLICY, jitter=jitter)


def test_three_failures_in_a_minute_open_a_circuit_and_a_success_between_them_does_not() -> None:
    circuit = failure(failure(CLOSED, 0.0), 1.0)
    assert circuit.state(1.0) is State.CLOSED
    assert failure(circuit, 2.0).state(2.0) is State.OPEN
    assert failure(circuit, 62.0).state(62.0) is State.CLOSED
    assert failure(succeeded(circuit, 1.5), 2.0).state(2.0) is State.CLOSED


def test_reset_headers_shorten_it_and_a_failed_probe_doubles_it() -> None:
    circuit = CLOSED
    for instant in (0.0, 0.1, 0.2):
        circuit = failure(circuit, instant, cool=20.0)
    assert circuit.open_until == pytest.approx(20.2)
    again = failure(probing(circuit, 20.3), 20.4, cool=20.0)
    assert again.open_until == pytest.approx(60.4)
    assert again.probe_until is None
    assert failure(replace(circuit, reopened=30), 20.4).open_until == pytest.approx(20.4 + 1800)


class CircuitMachine(RuleBasedStateMachine):
    """A circuit against the plainest account of what it should do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.circuit = CLOSED
        self.recent: list[float] = []
        self.until: float | None = None
        self.probe: float | None = None

    @rule(seconds=st.floats(0.01, 4000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(cool=st.one_of(st.none(), st.floats(0, 5000)), jitter=st.floats(0, 0.999))
    def a_request_fails(self, cool: float | None, jitter: float) -> None:
        before = self.circuit.state(self.now)
        self.circuit = failure(self.circuit, self.now, cool=cool, jitter=jitter)
        if before is State.OPEN:
            return
        if before is State.HALF_OPEN:
            self.probe = None
            self.until = self.circuit.open_until
            assert self.until is not None
            assert self.now < self.until <= self.now + POLICY.reset_timeout
            return
        self.recent = [*(instant for instant in self.recent if self.now - instant < WINDOW_SECONDS), self.now]
        if len(self.recent) >= POLICY.threshold:
            self.until = self.circuit.open_until
            assert self.until is not None
            assert self.until <= self.now + POLICY.reset_timeout

    @rule()
    def a_request_succeeds(self) -> None:
        if self.circuit.state(self.now) is not State.OPEN:
            self.recent, self.until, self.probe = [], None, None
        self.circuit = succeeded(self.circuit, self.now)

    @precondition(lambda self: self.circuit.may_probe(self.now))
    @rule()
    def a_probe_goes_out(self) -> None:
        assert self.probe is None or self.now >= self.probe + PROBE_SECONDS
        self.probe = self.now
        self.circuit = probing(self.circuit, self.now)
        assert not self.circuit.may_probe(self.now)

    @invariant()
    def it_is_in_the_state_of_the_model(self) -> None:
        expected = State.CLOSED
        if self.until is not None:
            expected = State.OPEN if self.now < self.until else State.HALF_OPEN
        assert self.circuit.state(self.now) is expected


TestCircuit = CircuitMachine.TestCase
TestCircuit.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
