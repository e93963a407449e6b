"""What the rooms of people and credentials refuse, as problems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.identity.credentials import CredentialError, StaleCredential
from certloom.identity.delegation import Refusal
from certloom.identity.grants import GrantError
from certloom.identity.login import LoginRefused, LoginThrottled
from certloom.identity.passwords import Busy, PasswordRefused
from certloom.identity.people import PersonError, StalePerson
from certloom.identity.roles import RoleError, StaleRole
from certloom.policy.name_rules import PatternError
from certloom.store.base import Conflict

LOGIN_REFUSED = problems.declare("login-refused", 401, "Nobody was logged in")

_INVALID = (GrantError, PersonError, CredentialError, PasswordRefused, RoleError, PatternError)
_STALE = (StalePerson, StaleCredential, StaleRole)


@contextmanager
def told() -> Iterator[None]:
    """Turn what those rooms raise into ``Problem``."""
    try:
        yield
    except Refusal as error:
        raise Problem(problems.FORBIDDEN, str(error)) from None
    except _INVALID as error:
        raise Problem(problems.INVALID, str(error)) from None
    except _STALE as error:
        raise Problem(problems.PRECONDITION_FAILED, str(error)) from None
    except Conflict:
        raise Problem(problems.CONFLICT, "there is one of that name") from None
    except LoginRefused as error:
        raise Problem(LOGIN_REFUSED, str(error)) from None
    except LoginThrottled as error:
        raise Problem(problems.TOO_MANY, str(error), retry_after=error.retry_after) from None
    except Busy as error:
        raise Problem(problems.UNAVAILABLE, str(error), retry_after=1) from None
