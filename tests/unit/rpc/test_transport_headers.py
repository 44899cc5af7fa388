"""Headers of calls: timeouts, metadata, and the messages of statuses."""

import base64
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.rpc.transport.asgi.headers import parse_timeout, percent_encode, read_metadata, write_metadata

NAMES = st.from_regex(r"[a-z0-9_.-]{1,20}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))
TEXTS = st.from_regex(r"[!-~]([ -~]{0,30}[!-~])?", fullmatch=True)
TRANSPORT = {"te", "host", "content-type"}


@given(st.integers(0, 99_999_999), st.sampled_from("HMSmun"))
def test_a_timeout_is_a_number_of_its_unit(amount: int, unit: str) -> None:
    seconds = {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}[unit]
    assert parse_timeout(f"{amount}{unit}".encode()) == pytest.approx(amount * seconds)


@pytest.mark.parametrize(
    "value", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"1234567890123456789S", b"\xb2S", b" 1S", b"1_0S"]
)
def test_what_is_no_timeout_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        parse_timeout(value)


@given(st.lists(st.one_of(st.tuples(NAMES, TEXTS), st.tuples(NAMES.map(lambda n: n + "-bin"), st.binary(max_size=30)))))
def test_metadata_comes_back_as_it_was_sent(metadata) -> None:
    metadata = [pair for pair in metadata if pair[0] not in TRANSPORT]
    assert read_metadata(write_metadata(metadata)) == metadata


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.booleans(), st.sampled_from([b",", b", "]))
def test_binary_values_may_be_padded_and_joined_by_commas(values: list[bytes], padded: bool, comma: bytes) -> None:
    encoded = [base64.b64encode(value) if padded else base64.b64encode(value).rstrip(b"=") for value in values]
    assert read_metadata([(b"k-bin", comma.join(encoded))]) == [("k-bin", value) for value in values]


@pytest.mark.parametrize("value", [b"A", b"AB-_", b"\xff\xff", b"A B C D", b"QUJD\n"])
def test_what_is_no_base64_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="base64 in the metadata 'k-bin'"):
        read_metadata([(b"k-bin", value)])


def test_headers_of_the_transport_are_no_metadata() -> None:
    headers = [(b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"1S"), (b"host", b"h")]
    assert read_metadata([*headers, (b"user-agent", b"me"), (b"a", b"1, 2")]) == [("user-agent", "me"), ("a", "1, 2")]


@given(st.text(max_size=60) | st.text(" %a", max_size=5))
def test_a_message_travels_in_printable_ascii_without_spaces_at_its_ends(message: str) -> None:
    encoded = percent_encode(message)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert encoded == encoded.strip(b" "), "HTTP/2 takes no header whose value begins or ends so"
    assert unquote(encoded.decode(), errors="strict") == message.encode(errors="replace").decode()


def test_what_can_stand_for_itself_does() -> None:
    assert percent_encode('expected "x", got 100 % [~]') == b'expected "x", got 100 %25 [~]'
