"""A bundle of packages and sub-folders, with a module that is imported only when a hook runs."""

import json

import shop.prices.table
from names import NAME

from tyk.decorators import *


@Pre
def report_modules(request, session, spec):
    from shop import late  # not before the first request

    values = [NAME, shop.prices.table.PRICE, late.describe()]
    request.object.return_overrides.response_code = 200
    request.object.return_overrides.response_body = json.dumps(values)
    return request, session
