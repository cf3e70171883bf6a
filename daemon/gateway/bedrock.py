"""Bedrock as a provider: its credential opened, the model mapped, the body translated, its errors understood."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import orjson
import structlog
from cachetools import LRUCache

from daemon.core.credentials import BedrockCredential
from daemon.core.failure import of_bedrock_answer, of_stream_error, verdict
from daemon.core.mapping import Catalogue, Route, Target, Unmapped, resolve, split_prefix
from daemon.gateway import relay
from daemon.gateway.accounts import Drains, Exchange, Tried, session_of
from daemon.gateway.answers import NO_RETRY, Denied
from daemon.gateway.learned import Compatibility, Place, Sessions
from daemon.gateway.legs import Deadlines, Failed, Whole, no_answer
from daemon.gateway.relay import Held
from daemon.protocol.bedrock.compat import Rule, harder, learn
from daemon.protocol.bedrock.errors import BedrockError, is_unknown_operation, named_error, read_error
from daemon.protocol.bedrock.request import Ceilings, Translated, Untranslatable, translate
from daemon.protocol.bedrock.stream import rewrite_document
from daemon.protocol.bedrock.thinking import healing_for
from daemon.services.directory import SealedBedrockKey
from daemon.store.routing import CircuitKey
from daemon.upstreams.base import Abortable, Failure, FailureKind, Reply
from daemon.upstreams.bedrock import PAYLOAD_LIMIT, BedrockRequest, BedrockUpstream
from daemon.upstreams.flights import Flights

log = structlog.get_logger()

_TRANSLATE_INLINE = 512 * 1024  # bytes; more would hold the loop for longer than a few milliseconds
_KEYS = 10_000
NO_KEY = Denied(
    502,
    "api_error",
    "this access key has no Bedrock key: an operator has to run proxyctl bedrock-keys set",
    (NO_RETRY,),
)
CANNOT_COUNT = Denied(501, "not_supported", "this provider cannot count tokens for this model", (NO_RETRY,))
_TOO_LARGE = Denied(413, "request_too_large", f"Bedrock takes at most {PAYLOAD_LIMIT // 1_000_000} MB")


class OpenKeys:
    """Opened Bedrock keys, remembered for a while. One opening at a time for each key."""

    def __init__(
        self,
        open_key: Callable[[SealedBedrockKey], Awaitable[BedrockCredential]],
        *,
        ttl: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._open_key = open_key
        self._ttl = ttl
        self._monotonic = monotonic
        self._cache: LRUCache[UUID, tuple[BedrockCredential, float]] = LRUCache(_KEYS)
        self._flights: Flights[UUID, BedrockCredential | Failure] = Flights()

    async def open(self, sealed: SealedBedrockKey) -> BedrockCredential | Failure:
        """The credential of a key. A key that was replaced has another id, so none is ever stale."""
        known = self._cache.get(sealed.id)
        if known is not None and self._monotonic() - known[1] < self._ttl:
            return known[0]
        return await self._flights.join(sealed.id, partial(self._opened, sealed))

    async def _opened(self, sealed: SealedBedrockKey) -> BedrockCredential | Failure:
        try:
            credential = await self._open_key(sealed)
        except Exception as error:  # noqa: BLE001 - broken, or KMS is away: either way there is no credential
            log.warning("Bedrock key not opened", bedrock_key_id=str(sealed.id), reason=str(error))
            return Failure(FailureKind.CREDENTIAL, f"the Bedrock key cannot be opened: {error}")
        self._cache[sealed.id] = (credential, self._monotonic())
        return credential


@dataclass(slots=True)
class ModelMap:
    """The layers a model is looked up in; `database` is replaced when an operator changes it."""

    catalogue: Catalogue
    environment: dict[str, str]
    database: dict[str, str]


class Bedrock:
    """Builds requests for Bedrock."""

    def __init__(
        self,
        upstream: BedrockUpstream,
        *,
        keys: OpenKeys,
        models: ModelMap,
        compatibility: Compatibility,
        sessions: Sessions,
        deadlines: Deadlines,
        ceilings: Ceilings,
        drains: Drains,
    ) -> None:
        self.upstream = upstream
        self.keys = keys
        self.models = models
        self.compatibility = compatibility
        self.sessions = sessions
        self.deadlines = deadlines
        self.ceilings = ceilings
        self.drains = drains

    def target(self, model: str, key: SealedBedrockKey) -> Target | Unmapped:
        """Where a model goes with a key, by what is known now."""
        return resolve(
            model,
            catalogue=self.models.catalogue,
            database=self.models.database,
            environment=self.models.environment,
            region=key.region,
            preference=key.profile,
            rejected=self.compatibility.rejected_profiles(key.region),
        )

    def route(self, target: Target, key: SealedBedrockKey) -> Route:
        """The wire for a model: as the key says, else as the model map, else as Bedrock has taught."""
        if key.route in ("messages", "invoke"):
            return "messages" if key.route == "messages" else "invoke"
        learned = self.compatibility.rules(key.region, target.bedrock_id).values("route")
        return "invoke" if "invoke" in learned else target.route

    def leg(self, exchange: Exchange, body: bytes, key: SealedBedrockKey, place: Place | None) -> "BedrockLeg":
        return BedrockLeg(self, exchange, body, key, place)

    async def count_tokens(self, body: bytes, model: str, key: SealedBedrockKey, line: Abortable) -> bytes | Denied:
        """Exactly as many tokens as Bedrock counts, or a refusal; only models on the invoke route can be counted."""
        target = self.target(model, key)
        if isinstance(target, Unmapped):
            return Denied(400, "invalid_request_error", target.reason)
        if target.route != "invoke" or target.bedrock_id.startswith("arn:"):
            return CANNOT_COUNT
        credential = await self.keys.open(key)
        translated = self.translated(body, target, "invoke", key, (), None)
        if isinstance(credential, Failure) or isinstance(translated, Untranslatable):
            return CANNOT_COUNT
        asked = orjson.dumps({"input": {"invokeModel": {"body": base64.b64encode(translated.body).decode()}}})
        bare = split_prefix(target.bedrock_id)[1]
        request = self.request(credential, key, "invoke", bare, model, asked, stream=False)
        reply = await self.upstream.count_tokens(request, line)
        answer = reply if isinstance(reply, Failure) else await relay.collect(reply)
        if isinstance(reply, Failure) or isinstance(answer, Failure) or reply.status != 200:
            return CANNOT_COUNT
        counted = orjson.loads(answer).get("inputTokens")
        return orjson.dumps({"input_tokens": counted}) if type(counted) is int else CANNOT_COUNT

    def model_list(self) -> bytes:
        """The models that can be asked for, in the shape of Anthropic's list."""
        names = sorted({entry.model for entry in self.models.catalogue.entries.values()} | set(self.models.database))
        data = [{"type": "model", "id": name, "display_name": name} for name in names]
        return orjson.dumps({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})

    def translated(
        self,
        body: bytes,
        target: Target,
        route: Route,
        key: SealedBedrockKey,
        betas: Sequence[str],
        healing: str | None,
    ) -> Translated | Untranslatable:
        return translate(
            body,
            betas=betas,
            route=route,
            bedrock_id=target.bedrock_id,
            features=target.features,
            learned=self.compatibility.rules(key.region, target.bedrock_id),
            healing=healing,
            ceilings=self.ceilings,
        )

    def request(
        self,
        credential: BedrockCredential,
        key: SealedBedrockKey,
        route: Route,
        bedrock_id: str,
        model: str,
        body: bytes,
        *,
        stream: bool,
        betas: Sequence[str] = (),
        version: bytes | None = None,
    ) -> BedrockRequest:
        return BedrockRequest(
            credential=credential,
            region=key.region,
            route=route,
            bedrock_id=bedrock_id,
            model=model,
            stream=stream,
            body=body,
            betas=betas,
            anthropic_version=version,
            first_byte_timeout=self.deadlines.first_byte if stream else self.deadlines.whole_answer,
            idle_timeout=self.deadlines.idle,
        )


class BedrockLeg:
    """Bedrock, for one exchange."""

    shared = True
    drains = True  # Bedrock goes on and bills the whole answer, read or not

    def __init__(
        self, bedrock: Bedrock, exchange: Exchange, body: bytes, key: SealedBedrockKey, place: Place | None
    ) -> None:
        self._bedrock = bedrock
        self._model = exchange.facts.model
        self.body = body
        self._key = key
        self._healing = place.healing if place else None
        self._betas = _betas(exchange)
        self._used: frozenset[Rule] = frozenset()
        self.circuits: tuple[CircuitKey, ...] = (
            ("access_key", str(exchange.admitted.principal.access_key_id), "bedrock"),
            ("credential", str(key.id), "bedrock"),
        )
        self.tried = self._resolve()

    async def open(self, exchange: Exchange) -> Reply | Failure | Failed:
        target = self._target
        if isinstance(target, Unmapped):
            denied = Denied(400, "invalid_request_error", target.reason)
            return Failed(self, verdict("model_unavailable"), denied, text=target.reason)
        credential = await self._bedrock.keys.open(self._key)
        if isinstance(credential, Failure):
            return self._no_answer(credential)
        self._used = self._bedrock.compatibility.rules(self._key.region, target.bedrock_id).rules
        translated = await self._translated(target)
        if isinstance(translated, Untranslatable):
            denied = Denied(400, "invalid_request_error", f"Bedrock cannot serve this request: {translated.reason}")
            return Failed(self, verdict("unsupported"), denied, text=translated.reason)
        if len(translated.body) > PAYLOAD_LIMIT:
            return Failed(self, verdict("unsupported"), _TOO_LARGE)
        version = next((value for name, value in exchange.headers if name == b"anthropic-version"), None)
        request = self._bedrock.request(
            credential,
            self._key,
            self._route,
            target.bedrock_id,
            self._model,
            translated.body,
            stream=exchange.facts.stream,
            betas=translated.betas,
            version=version,
        )
        exchange.drains = self._bedrock.drains
        reply = await self._bedrock.upstream.open(request, exchange.line)
        if isinstance(reply, Failure) and reply.kind is not FailureKind.ABORTED:
            return self._no_answer(reply)
        return reply

    def request_id(self, reply: Reply) -> str | None:
        name = b"x-amzn-requestid"
        found = relay.header(reply, name) or relay.header(reply, b"request-id")
        return found.decode("latin-1") or None

    def judge(self, answer: Whole) -> bytes | Failed:
        reply, body = answer.reply, answer.body
        if reply.status == 200 and relay.is_json(reply) and body and not is_unknown_operation(body):
            return rewrite_document(body, self._model)[0]
        if not (relay.is_json(reply) or is_unknown_operation(body)):
            denied = Denied(502, "api_error", f"Bedrock answered HTTP {reply.status} without a JSON body")
            return Failed(self, verdict("not_an_api_answer"), denied, status=reply.status)
        return self._failed(read_error(reply.status, dict(reply.headers), body), reply.status)

    def judge_stream(self, held: Held) -> Failed:
        translator = held.translator
        if translator is not None and translator.error is not None:
            return self._failed(translator.error, held.status)
        if held.error_type is not None:
            error = named_error("", held.error_message, status=200, envelope_type=held.error_type)
            failed = self._failed(error, held.status)
            failed.verdict = of_stream_error(held.error_type, shared_credential=False)
            if failed.verdict.kind in ("overloaded", "rate_limited"):
                failed.denied = Denied(529, "overloaded_error", error.message)
            return failed
        failure = held.end.failure if held.end is not None else None
        cut = failure or Failure(FailureKind.CUT, "Bedrock's stream ended before its content began")
        failed = self._no_answer(cut)
        failed.status = held.status
        return failed

    def repair(self, exchange: Exchange, failed: Failed) -> bool:
        target = self._target
        if isinstance(target, Unmapped) or not failed.text:
            return False
        healing = healing_for(failed.text, self._healing)
        if healing is not None:
            self._healing = healing
            principal = exchange.admitted.principal
            self._bedrock.sessions.heal(principal.access_key_id, session_of(exchange), "bedrock", healing)
            return True
        rules = harder(learn(failed.text, bedrock_id=target.bedrock_id), self._used)
        missing = failed.verdict.kind in ("unknown_operation", "model_unavailable")
        if missing and self._route == "messages" and self._key.route == "auto" and not rules:
            rules = frozenset((Rule("route", "invoke"),))
        if not rules - self._used or (any(rule.kind == "profile" for rule in rules) and not target.alternatives):
            return False
        self._bedrock.compatibility.learn(self._key.region, target.bedrock_id, rules, failed.text)
        self.tried = self._resolve()
        return True

    def _resolve(self) -> Tried:
        self._target = self._bedrock.target(self._model, self._key)
        if isinstance(self._target, Unmapped):
            return Tried("bedrock", "none")
        self._route = self._bedrock.route(self._target, self._key)
        target = self._target
        return Tried("bedrock", self._route, target.bedrock_id, target.model, target.price_region)

    async def _translated(self, target: Target) -> Translated | Untranslatable:
        arguments = (self.body, target, self._route, self._key, self._betas, self._healing)
        if len(self.body) <= _TRANSLATE_INLINE:
            return self._bedrock.translated(*arguments)
        return await asyncio.to_thread(self._bedrock.translated, *arguments)

    def _failed(self, error: BedrockError, status: int) -> Failed:
        judged = of_bedrock_answer(error.status if status == 200 else status, error.name, cool_down=error.retry_after)
        headers = ((b"retry-after", b"%d" % error.retry_after),) if error.retry_after is not None else ()
        denied = Denied(error.status, error.type, error.message, headers)
        return Failed(self, judged, denied, status=status, text=error.text)

    def _no_answer(self, failure: Failure) -> Failed:
        if failure.kind is FailureKind.CREDENTIAL:
            denied = Denied(503, "api_error", failure.detail, ((b"retry-after", b"5"),))
            return Failed(self, verdict("own_credential_unavailable"), denied)
        return no_answer(self, failure, shared=False)


def _betas(exchange: Exchange) -> tuple[str, ...]:
    """The client's betas, each once, in its order."""
    values = [value.decode("latin-1") for name, value in exchange.headers if name == b"anthropic-beta"]
    return tuple(dict.fromkeys(beta for value in values for part in value.split(",") if (beta := part.strip())))
