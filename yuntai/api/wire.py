"""A request as it came over the wire: query and form merged, and which action of which product it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from yuntai.api.errors import invalid_parameter, missing_parameter

FIELDS_MAX = 1000
"""The most parameters that one request may carry."""
FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class WireRequest:
    """``path`` and ``query`` are raw; ``headers`` is case-insensitive; ``params`` is query and form together."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    params: dict[str, str]

    @property
    def action(self) -> str:
        """The action's name, from a parameter or from the header of the newer clients."""
        return self._name("Action", "x-acs-action")

    @property
    def version(self) -> str:
        """The product's version, a date; it also tells the product."""
        return self._name("Version", "x-acs-version")

    def _name(self, parameter: str, header: str) -> str:
        given, headed = self.params.get(parameter, ""), self.headers.get(header, "")
        if given and headed and given != headed:
            raise invalid_parameter(parameter, f"the parameter and the header {header} differ")
        if not given and not headed:
            raise missing_parameter(parameter)
        return given or headed

    @property
    def wants_xml(self) -> bool:
        """Whether the answer shall be XML: ``Format`` decides, then ``Accept``; JSON if neither speaks."""
        wanted = self.params.get("Format", "").upper()
        if wanted in ("XML", "JSON"):
            return wanted == "XML"
        accept = self.headers.get("Accept", "").lower()
        return "xml" in accept and "json" not in accept and "html" not in accept


def read(method: str, target: str, headers: Mapping[str, str], body: bytes) -> WireRequest:
    """Take a request apart. ``target`` is a path, or an absolute URI as clients send it to a proxy."""
    if target.startswith(("http://", "https://")):
        _, _, rest = target.partition("://")
        _, slash, rest = rest.partition("/")
        target = slash + rest if slash else "/"
    path, _, query = target.partition("?")
    fields = _pairs(query, "query")
    if body and headers.get("Content-Type", "").partition(";")[0].strip().lower() == FORM_TYPE:
        try:
            fields += _pairs(body.decode("utf-8"), "form body")
        except UnicodeDecodeError as error:
            raise invalid_parameter("body", "it is not UTF-8") from error
    params: dict[str, str] = {}
    for key, value in fields:
        if params.setdefault(key, value) != value:
            raise invalid_parameter(key[:80], "it is given twice with different values")
    return WireRequest(method, path or "/", query, headers, body, params)


def _pairs(text: str, where: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except UnicodeDecodeError as error:
        raise invalid_parameter(where, "it is not UTF-8") from error
    except ValueError as error:
        raise invalid_parameter(where, f"it has more than {FIELDS_MAX} fields") from error
