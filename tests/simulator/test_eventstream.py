"""Frames of the event stream: a known sample, and botocore as the reader."""

import base64
import json

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulator import eventstream

SAMPLE = base64.b64decode(
    "AAAA5gAAAEsjuHUOCzpldmVudC10eXBlBwAFY2h1bmsNOmNvbnRlbnQtdHlwZQcAEGFwcGxpY2F0aW9uL2pzb24NOm1lc3NhZ2UtdHlwZQcABW"
    "V2ZW50eyJieXRlcyI6ImV5SjBlWEJsSWpvaVkyOXVkR1Z1ZEY5aWJHOWphMTlrWld4MFlTSXNJbWx1WkdWNElqb3dMQ0prWld4MFlTSTZleUow"
    "ZVhCbElqb2lkR1Y0ZEY5a1pXeDBZU0lzSW5SbGVIUWlPaUpJYVNKOWZRPT0iLCJwIjoiYWJjZGVmZ2gifY7FaukAAACwAAAAYU9QhrMPOmV4Y2"
    "VwdGlvbi10eXBlBwATdGhyb3R0bGluZ0V4Y2VwdGlvbg06Y29udGVudC10eXBlBwAQYXBwbGljYXRpb24vanNvbg06bWVzc2FnZS10eXBlBwAJ"
    "ZXhjZXB0aW9ueyJtZXNzYWdlIjoiVG9vIG1hbnkgdG9rZW5zLCBwbGVhc2Ugd2FpdCBiZWZvcmUgdHJ5aW5nIGFnYWluLiJ99wrlfwAAAFoAAA"
    "BKgYigjQs6ZXJyb3ItY29kZQcAD0ludGVybmFsRmFpbHVyZQ46ZXJyb3ItbWVzc2FnZQcABGJvb20NOm1lc3NhZ2UtdHlwZQcABWVycm9y+NaZ"
    "nQ=="
)
DELTA = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}'


def read(data: bytes) -> list[dict[str, object]]:
    """What botocore makes of the bytes."""
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [event.to_response_dict() for event in buffer]


def test_the_frames_are_those_of_a_known_sample_byte_for_byte() -> None:
    throttled = eventstream.exception("throttlingException", "Too many tokens, please wait before trying again.")
    ours = eventstream.chunk(DELTA, "abcdefgh") + throttled + eventstream.error("InternalFailure", "boom")
    assert ours == SAMPLE


def test_botocore_reads_a_chunk_an_exception_and_an_error() -> None:
    chunk, exception, error = read(SAMPLE)
    assert base64.b64decode(json.loads(chunk["body"])["bytes"]) == DELTA
    assert (exception["status_code"], exception["headers"][":exception-type"]) == (400, "throttlingException")
    assert (error["status_code"], error["headers"][":error-message"]) == (400, "boom")


@settings(deadline=None)
@given(event=st.binary(max_size=5000), padding=st.text("abcXYZ", max_size=80))
def test_every_event_comes_back_as_it_was(event: bytes, padding: str) -> None:
    [frame] = read(eventstream.chunk(event, padding))
    assert base64.b64decode(json.loads(frame["body"])["bytes"]) == event


def test_botocore_notices_every_flipped_bit_that_leaves_the_length_alone() -> None:
    frame = eventstream.chunk(DELTA, "pad")
    for offset in range(4, len(frame)):
        damaged = bytearray(frame)
        damaged[offset] ^= 1
        with pytest.raises(ChecksumMismatch):
            read(bytes(damaged))
