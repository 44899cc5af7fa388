"""`[tls]` holds for all listeners; a listener's own table says what it does otherwise; half a TLS is not a TLS."""

import tomllib
from pathlib import Path

import pytest

from turnout.config import LISTENERS, LoadedSettings, load_settings, misread_variables
from turnout.config.rendering import render_toml
from turnout.errors import ConfigError

BOTH = 'cert = "c"\nkey = "k"\n'


def loaded(tmp_path: Path, text: str, **environ: str) -> LoadedSettings:
    file = tmp_path / "turnout.toml"
    file.write_text(f"[tls]\n{text}")
    return load_settings(file, environ=environ)


def test_without_a_certificate_every_listener_speaks_plain_text(tmp_path: Path) -> None:
    tls = loaded(tmp_path, "").settings.tls
    assert [tls.of(listener) for listener in LISTENERS] == [None, None, None]


def test_one_table_is_for_all_listeners_and_its_own_for_one(tmp_path: Path) -> None:
    text = BOTH + (
        'client_ca = "ca"\nclient_certificates = "required"\n'
        '[tls.http]\nclient_certificates = "none"\n[tls.control]\ncert = "c2"\nkey = "k2"\n'
    )
    tls = loaded(tmp_path, text).settings.tls
    grpc, http, control = map(tls.of, LISTENERS)
    assert grpc is not None
    assert http is not None
    assert control is not None
    assert (grpc.cert, grpc.client_certificates) == ("c", "required")
    assert (http.cert, http.client_ca, http.client_certificates) == ("c", "ca", "none")
    assert (control.cert, control.key, control.client_certificates) == ("c2", "k2", "required")
    assert tls.setting("control", "cert") == "tls.control.cert"
    assert tls.setting("control", "client_ca") == "tls.client_ca"


def test_a_listener_can_be_left_out_by_file_or_environment(tmp_path: Path) -> None:
    tls = loaded(tmp_path, BOTH + "control.enabled = false\n", TURNOUT_TLS__HTTP__ENABLED="false").settings.tls
    assert [tls.of(listener) is not None for listener in LISTENERS] == [True, False, False]
    assert loaded(tmp_path, BOTH + "enabled = false\n").settings.tls.of("grpc") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cert = "c"', "expected tls.key too, since tls.cert is set: the file of the certificate's private key"),
        ('key = "k"', "expected tls.cert too, since tls.key is set: the file of the server's certificate"),
        ('http.cert = "c"', "expected tls.key too, since tls.http.cert is set"),
        ('client_ca = "ca"', "expected tls.cert too, since tls.client_ca is set"),
        ('client_certificates = "required"', "expected tls.cert too, since tls.client_certificates is set"),
        ("control.enabled = true", "expected tls.cert too, since tls.control.enabled is set"),
        (BOTH + 'client_certificates = "optional"', "expected tls.client_ca too, since tls.client_certificates is"),
        (BOTH + 'client_ca = "ca"', 'expected tls.client_certificates to be "required" or "optional", since '),
        (BOTH + 'grpc.client_ca = "ca"', "expected tls.grpc.client_certificates to be"),
        (BOTH + 'client_certificates = "yes"', "tls.client_certificates in"),
        (BOTH + "poll_interval_s = -1", "tls.poll_interval_s in"),
        (BOTH + 'certificate = "c"', "unknown key 'tls.certificate'; nearest: tls.client_certificates"),
    ],
)  # fmt: skip
def test_half_a_tls_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert message in refused.value.message
    assert "got a table" not in refused.value.message


def test_what_is_printed_gives_the_same_settings_again(tmp_path: Path) -> None:
    text = BOTH + 'client_ca = "ca"\nclient_certificates = "required"\n[tls.http]\nclient_certificates = "none"\n'
    first = loaded(tmp_path, text)
    printed = render_toml(first.settings, first.origins)
    again = tmp_path / "again.toml"
    again.write_text(printed)
    tls = load_settings(again, environ={}).settings.tls
    assert [tls.of(one) for one in LISTENERS] == [first.settings.tls.of(one) for one in LISTENERS]
    assert tomllib.loads(printed)["tls"]["control"] == {}


def test_variables_of_clients_are_no_settings(tmp_path: Path) -> None:
    variables = {"TURNOUT_TLS_CA": "a", "TURNOUT_TLS_CERT": "b", "TURNOUT_TLS_KEY": "c", "TURNOUT_TLS_SERVER_NAME": "d"}
    assert loaded(tmp_path, "", **variables).settings.tls.of("grpc") is None


def test_variables_of_clients_that_a_server_was_given_are_told_of(tmp_path: Path) -> None:
    given = {"TURNOUT_TLS_CERT": "c", "TURNOUT_TLS_KEY": "k", "TURNOUT_TLS_CA": "ca"}
    sentences = list(misread_variables(loaded(tmp_path, "").settings, given))
    assert [sentence.split()[0] for sentence in sentences] == ["TURNOUT_TLS_CERT", "TURNOUT_TLS_KEY"]
    assert "a server reads TURNOUT_TLS__CERT" in sentences[0]
    assert list(misread_variables(loaded(tmp_path, BOTH).settings, given)) == []
