"""What keeps a certificate, key or authority from being used has a sentence that names the file."""

import time
from base64 import b64encode
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certificates import UNREADABLE_NAMES, Authority, Certified
from turnout.errors import ConfigError
from turnout.tls.identity import PemFile, ServerIdentity, check_identity

AUTHORITY = Authority.make()
SERVER = AUTHORITY.issue()


def cert(data: bytes) -> PemFile:
    return PemFile("tls.cert", "c.pem", data)


def key(data: bytes) -> PemFile:
    return PemFile("tls.key", "k.pem", data)


def ca(data: bytes) -> PemFile:
    return PemFile("tls.client_ca", "ca.pem", data)


def check(of: Certified = SERVER, authorities: PemFile | None = None) -> ServerIdentity:
    mode = "none" if authorities is None else "required"
    return check_identity(cert(of.pem), key(of.key), authorities, mode, time.time())


@pytest.mark.parametrize(
    "private",
    [
        None,
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=lambda private: type(private).__name__,
)
def test_a_certificate_with_its_key_is_used(private: object) -> None:
    server = AUTHORITY.issue("a name", private=private)
    found = check(server)
    assert (found.subject, found.warnings) == ("CN=a name", ())
    assert found.expires == server.certificate.not_valid_after_utc.timestamp()
    assert found.certificate == server.pem


def test_the_first_of_the_chain_to_end_is_when_it_expires() -> None:
    between = AUTHORITY.intermediate()
    leaf = between.issue(days=300)
    found = check(leaf)
    assert found.expires == between.certificate.not_valid_after_utc.timestamp()
    assert found.certificate.count(b"BEGIN") == 2


def block(label: str, body: str = "AAAA") -> bytes:
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()


OLD_ENCRYPTED = block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA")
DER = SERVER.certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("certificate", "private", "message"),
    [
        (SERVER.key, SERVER.key, "tls.cert (c.pem) holds no PEM certificate, expected the server's certificate"),
        (SERVER.key, SERVER.key, "; it holds private key"),
        (b"", SERVER.key, "holds no PEM certificate, expected the server's certificate; it is empty"),
        (DER, SERVER.key, "it looks like DER"),
        (block("CERTIFICATE"), SERVER.key, "tls.cert (c.pem) holds a certificate that cannot be read"),
        (SERVER.pem, SERVER.pem, "tls.key (k.pem) holds no PEM private key; it holds certificate"),
        (SERVER.pem, b"\n", "tls.key (k.pem) holds no PEM private key; it is empty"),
        (SERVER.pem, SERVER.encrypted_key, "tls.key (k.pem) is encrypted, and the server cannot ask for its"),
        (SERVER.pem, OLD_ENCRYPTED, "tls.key (k.pem) is encrypted"),
        (SERVER.pem, block("PRIVATE KEY"), "tls.key (k.pem) holds a private key that cannot be read"),
        (SERVER.pem, AUTHORITY.issue().key, "does not belong to the certificate in tls.cert (c.pem), CN=a server"),
        (AUTHORITY.pem + SERVER.pem, SERVER.key, "has to begin with the server's own certificate; the key belongs to"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(certificate: bytes, private: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_identity(cert(certificate), key(private), None, "none", time.time())
    assert message in refused.value.message
    assert "BEGIN" not in refused.value.message


def changed(before: str, after: str) -> bytes:
    """Returns a certificate with two extensions that mean nothing, in which some bytes were replaced."""
    kinds = (x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{end}"), b"\x05\x00") for end in (4, 5))
    der = AUTHORITY.issue(private=SERVER.private, extensions=tuple(kinds)).certificate.public_bytes(Encoding.DER)
    assert bytes.fromhex(before) in der
    return block("CERTIFICATE", b64encode(der.replace(bytes.fromhex(before), bytes.fromhex(after))).decode())


MALFORMED = {
    "a version that does not exist": changed("a003020102", "a003020105"),
    "an extension twice": changed("06032a0305", "06032a0304"),
    "names of an unknown kind": AUTHORITY.issue(private=SERVER.private, hosts=(), extensions=(UNREADABLE_NAMES,)).pem,
}


@pytest.mark.parametrize("certificate", MALFORMED.values(), ids=MALFORMED)
def test_a_certificate_of_which_a_part_cannot_be_read_is_refused_in_words(certificate: bytes) -> None:
    with pytest.raises(ConfigError, match=r"certificate .*cannot be read"):
        check_identity(cert(certificate), key(SERVER.key), None, "none", time.time())


@pytest.mark.parametrize(
    ("private", "message"),
    [
        (rsa.generate_private_key(65537, 1024), "is an RSA key of 1024 bits, expected 2048 or more"),
        (ec.generate_private_key(ec.SECP256K1()), "is a key on the curve secp256k1, expected P-256, P-384 or P-521"),
        (dsa.generate_private_key(1024), "is a key of another kind than RSA, ECDSA or Ed25519"),
    ],
)
def test_a_key_that_no_client_would_accept_is_refused(private: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(AUTHORITY.issue(private=private))


def test_one_file_may_hold_certificate_and_key() -> None:
    both = b"# made by hand\n" + SERVER.key + SERVER.pem
    assert check_identity(cert(both), key(both), None, "none", time.time()).certificate == SERVER.pem


def test_what_clients_will_refuse_is_used_with_a_warning() -> None:
    expired, early = AUTHORITY.issue("old", days=-1), AUTHORITY.issue("new", starts=1)
    assert "tls.cert (c.pem): CN=old expired on" in check(expired).warnings[0]
    assert "tls.cert (c.pem): CN=new is not valid before" in check(early).warnings[0]
    assert "names no host" in check(AUTHORITY.issue(hosts=())).warnings[0]


def test_authorities_of_clients_have_to_be_certificates() -> None:
    assert check(SERVER, ca(AUTHORITY.pem + Authority.make().pem)).client_ca.count(b"BEGIN") == 2
    for data in (b"", SERVER.key):
        with pytest.raises(ConfigError, match=r"tls.client_ca \(ca.pem\) holds no PEM certificate"):
            check(SERVER, ca(data))
    warned = check(SERVER, ca(Authority.make(days=-1).pem)).warnings
    assert warned == ("tls.client_ca (ca.pem): every authority has expired, so no client's certificate is accepted",)


def test_no_key_is_printed() -> None:
    found = check()
    for thing in (found, key(SERVER.key), replace(found, subject="x")):
        assert "PRIVATE" not in repr(thing)
        assert "PRIVATE" not in str(thing)
