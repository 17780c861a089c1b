"""Who somebody is to this server: a number that nobody can guess, drawn here, kept in the browser.

Jobs carry its hash only, so that the table tells nobody how to be that visitor.
"""

import hashlib
import re
import secrets

from svd_core.web.page.components import Kept

FORM = re.compile(r"[0-9a-f]{32}")

PREFIX = "page:"
"""No key of the API can be called so: their ids have no colon."""


def visitor_card() -> Kept:
    return Kept(None, storage_key="svd-visitor", secret="svd-visitor")  # noqa: S106


def known(card: object) -> str:
    """What a browser sent, if it can be a visitor's number, else a new one."""
    good = isinstance(card, str) and FORM.fullmatch(card)
    return str(card) if good else secrets.token_hex(16)


def owner_of(card: object) -> str:
    """Whose jobs those of this visitor are; empty (nobody's) for what can be no visitor."""
    if not isinstance(card, str) or not FORM.fullmatch(card):
        return ""
    return PREFIX + hashlib.sha256(card.encode()).hexdigest()[:32]
