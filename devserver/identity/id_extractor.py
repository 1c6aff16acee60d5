"""The gateway's own id extractor: Tyk's ValueExtractor, RegexExtractor and XPathExtractor."""

import hashlib
import re
from xml.etree import ElementTree

from tykpy.devserver.definitions.api import IdExtractor
from tykpy.devserver.messages import GatewayRequest
from tykpy.workers.objects.go_urls import parse_query, split_query

_FORM = "application/x-www-form-urlencoded"


def extracted_key(extractor: IdExtractor, org_id: str, request: GatewayRequest) -> str | None:
    """Return the key under which the request's session is stored; None if the request has no value for it."""
    value = _value(extractor, request)
    if value is None:
        return None
    return org_id + hashlib.md5(value.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()


def _value(extractor: IdExtractor, request: GatewayRequest) -> str | None:
    if (extractor.method, extractor.source) == ("value", "body"):
        return ""  # nothing is read, and all clients have this value
    text = _source(extractor, request)
    if not text:
        return None
    if extractor.method == "value":
        return text
    if extractor.method == "xpath":
        return _by_xpath(extractor.expression, text)
    try:
        matches = [found.group() for found in re.finditer(extractor.expression, text)]
    except re.error:
        return None
    return matches[extractor.match] if 0 <= extractor.match < len(matches) else None


def _source(extractor: IdExtractor, request: GatewayRequest) -> str:
    if extractor.source == "header":
        return request.header(extractor.header)
    body = request.body.decode(errors="surrogateescape")
    if extractor.source == "body":
        return body
    if extractor.source == "form":
        form = parse_query(body) if request.header("Content-Type").partition(";")[0].strip().lower() == _FORM else {}
        query = parse_query(split_query(request.url)[1])
        return "".join([*form.get(extractor.parameter, []), *query.get(extractor.parameter, [])])
    return ""


def _by_xpath(path: str, text: str) -> str | None:
    try:
        root = ElementTree.fromstring(text)
        if not path.startswith("/"):
            found = root.find(path)
        elif path.startswith("//"):
            found = root.find(f".{path}")
        else:
            first, _, rest = path[1:].partition("/")
            found = None if first != root.tag else root.find(rest) if rest else root
    except (ElementTree.ParseError, SyntaxError, ValueError):
        return None
    return None if found is None else "".join(found.itertext())
