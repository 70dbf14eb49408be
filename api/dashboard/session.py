"""Who looks at a page: a signed cookie that names an API key, and no state on the server.

The key itself never leaves the sign-in form. What the cookie names is looked up with every request, so that a
revoked key ends its sessions, and every API process knows the same people.
"""

from fastapi import Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer

from api.deps import Sessions, Settings
from core.accounts import service as accounts
from core.accounts.service import Principal
from core.config import Settings as AllSettings
from core.errors import Unauthenticated, Unavailable
from mixkd.contract.problems import Problem

COOKIE = "mixkd_session"


def sign_in(request: Request, response: Response, settings: AllSettings, principal: Principal) -> None:
    """Give the browser a session of this key.

    Raises:
        Unavailable: the operator has set no secret to sign with.
    """
    response.set_cookie(
        COOKIE,
        _signer(settings).dumps(principal.key_id),
        max_age=_seconds(settings),
        httponly=True,
        samesite="lax",  # a link in a mail leads to a page, not to the sign-in; changes are checked by Origin
        secure=request.url.scheme == "https",
    )


def sign_out(response: Response) -> None:
    """Take the session from the browser."""
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")


def require_viewer(request: Request, sessions: Sessions, settings: Settings) -> None:
    """Let nobody in but whom the session's cookie names; routes ask for `api.deps.Principal` as ever.

    Raises:
        Unauthenticated: there is none, it is too old, it is not ours, or its key was revoked.
    """
    try:
        key_id = _signer(settings).loads(request.cookies.get(COOKIE, ""), max_age=_seconds(settings))
    except (BadData, Unavailable):
        raise Unauthenticated("sign in with an API key") from None
    # In a session of its own: who holds a connection while waiting for a thread stops a burst of requests.
    with sessions() as session:
        request.state.principal = accounts.of_key(session, str(key_id))


def _signer(settings: AllSettings) -> URLSafeTimedSerializer:
    if settings.session_secret is None:
        detail = "this service signs nobody in: its operator has set no MIXKD_SESSION_SECRET"
        remedy = "set it to at least 32 random characters, the same for every API process"
        raise Unavailable(detail, Problem("MIXKD_SESSION_SECRET", detail, remedy=remedy))
    return URLSafeTimedSerializer(settings.session_secret.get_secret_value(), salt="mixkd session")


def _seconds(settings: AllSettings) -> int:
    return round(settings.session_days * 24 * 3600)
