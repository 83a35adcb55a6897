"""Keep secrets out of what librdkafka and Python say: in log records, errors and reasons, as they are and in disguise.

librdkafka hides what it knows to be secret, but not all: a token endpoint's URL with a password in it, or a part of
``sasl.oauthbearer.config``, appear in its errors and at DEBUG.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from kafka_consumer.option_checks import SECRET

_SECRET_NAME = re.compile(
    r"password|passphrase|secret|jaas|credential|private|user\.info|auth\.token|\.pem$|\.key$|^sasl\.oauthbearer\.(config|extensions|assertion\.)"
)
_COMPOSED_NAME = re.compile(r"jaas|\.pem$|^sasl\.oauthbearer\.(config|extensions)")
_USER_INFO = re.compile(r"(?<=//)[^/@\s\"']{1,500}(?=@)")
_URL_PASSWORD = re.compile(r"//[^@]*?:(.*)@", re.DOTALL)
_SHORTEST = 4
_SHORTEST_PART = 6
"""A shorter part of a composed value (``principal``'s) is left alone: it would be found in every other line."""


def is_secret(name: str, value: Any = "") -> bool:
    """Whether nobody may see the value of this option of librdkafka."""
    return _SECRET_NAME.search(name) is not None or _URL_PASSWORD.search(str(value)) is not None


class Redactor(logging.Filter):
    """Hides the secret values of librdkafka's options: ``redact(text)``, and of records as a filter of loggers and handlers.

    Found are the values themselves and their percent-encoded, base64 and escaped forms. Any thread may use it; it never changes.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        forms = {form for name, value in options.items() for form in _forms(name, value, str(options.get("sasl.username", "")))}
        # The longest first: one may be the beginning of another.
        ordered = sorted((form for form in forms if form), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_sought, ordered))) if ordered else None

    def redact(self, text: str) -> str:
        """Return the text with every secret, and every password within a URL, hidden."""
        if self._pattern is not None:
            text = self._pattern.sub(SECRET, text)
        return _USER_INFO.sub(_hidden_if_password, text) if "@" in text else text

    def filter(self, record: logging.LogRecord) -> bool:
        """Hide the secrets of a record; always True."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - formatting calls __str__ of any object that was logged
            return True  # the handler shows the template alone
        clean = self.redact(message)
        if clean != message:
            record.msg, record.args = clean, ()
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            try:
                told = "".join(traceback.format_exception(*record.exc_info))
            except Exception:  # noqa: BLE001 - an error whose __str__ raises
                return True
            if self.redact(told) != told:
                record.msg = (
                    f"{record.getMessage()} ({record.exc_info[0].__name__}; its traceback holds a secret and is left out)"
                )
                record.args, record.exc_info, record.exc_text = (), None, None
        return True


def _hidden_if_password(user_info: re.Match[str]) -> str:
    return SECRET if ":" in user_info.group() else user_info.group()


def _forms(name: str, value: Any, username: str) -> Iterator[str]:
    """Yield what a secret value looks like in a text."""
    text = str(value)
    in_url = _URL_PASSWORD.search(text)
    if in_url is not None:
        yield from _disguises(in_url[1], username)
    if _SECRET_NAME.search(name) is None:
        return
    yield from _disguises(text, username)
    if name.endswith("user.info"):  # USER:PASSWORD, and as HTTP's Basic writes it
        yield from _disguises(text.partition(":")[2], text.partition(":")[0])
    if _COMPOSED_NAME.search(name):
        for part in re.split(r"[\s=,;\"']+", text):
            if len(part) >= _SHORTEST_PART and not part.startswith("-----") and part not in {"principal", "CERTIFICATE"}:
                yield from _disguises(part, username)


def _disguises(text: str, username: str) -> Iterator[str]:
    raw = text.encode("utf-8", "surrogatepass")
    yield from (text, json.dumps(text)[1:-1], repr(text)[1:-1], quote(raw, safe=""), quote(raw), quote_plus(raw), raw.hex())
    # As SASL PLAIN and HTTP's Basic write it.
    yield from (
        _base64(f"\0{username}\0".encode("utf-8", "surrogatepass") + raw),
        _base64(f"{username}:".encode("utf-8", "surrogatepass") + raw),
    )
    # Within other data its first byte may fall on any of three places; what depends on its neighbours is left out.
    for shift in range(3):
        encoded = b64encode(b"\0" * shift + raw).decode()
        inner = encoded[-(-shift * 8 // 6) : len(encoded) - (4 if (shift + len(raw)) % 3 else 0)]
        if len(inner) >= 2 * _SHORTEST:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _sought(form: str) -> str:
    """Return the pattern of a form: one so short that it is part of ordinary words is hidden only where it stands alone."""
    return re.escape(form) if len(form) >= _SHORTEST else rf"(?<![\w.]){re.escape(form)}(?![\w.])"
