"""The table of routes, and what a handler is given and gives back.

A resource is a module of this room, named in ``api/resources.py``. It declares its routes; the OpenAPI
document, authentication, the permission matrix, preconditions, rate limits and idempotency all come from
what the declaration says. A whole example:

    class WidgetPath(msgspec.Struct, frozen=True):
        name: Name

    class Widget(msgspec.Struct, frozen=True):
        "A thing, as it is shown. Docstrings become descriptions in the OpenAPI document."
        name: str
        size: int
        created: datetime

    class NewWidget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        size: Annotated[int, msgspec.Meta(ge=1, le=100)]

    class WidgetQuery(Paging, frozen=True):
        team: str | None = None

    @route("GET", "/widgets", permission="widget.read", summary="List widgets", query=WidgetQuery,
           answers={200: Page[Widget]}, tag="widgets")
    async def listing(call: Call[None, WidgetQuery, None]) -> Answer:
        after = call.position(str) or ""                      # 400 for a cursor that is not of this listing
        reach = call.principal.reach("widget.read")           # narrow in SQL ...
        rows = await call.services.store.scan(lambda tx: statements.listing(tx, reach, after, call.limit + 1))
        return call.page([show(row) for row in rows], lambda row: row.name)   # ... cut to the limit, cursor

    @route("PUT", "/widgets/{name}", permission="widget.write", summary="Change a widget", path=WidgetPath,
           body=NewWidget, answers={200: Widget, 201: Widget}, edits=True, tag="widgets")
    async def put(call: Call[WidgetPath, None, NewWidget]) -> Answer:
        def unit(tx: Tx) -> Answer:
            row = statements.get(tx, call.path.name)
            call.allow("widget.write", Thing(team=row.team if row else ""))   # 403; 404 if not theirs to see
            call.require_match(etag(row.revision) if row else None)           # 412, 428
            ...
            record(tx, call.services.clock.now_ms(), "widget.changed", f"widget:{row.name}", call.origin,
                   {"before": ..., "after": ...})
            return Answer(show(row), etag=etag(row.revision + 1))
        return await call.write(unit)

    @route("POST", "/widgets", permission="widget.write", summary="Make a widget", body=NewWidget,
           answers={201: Widget}, tag="widgets")
    async def create(call: Call[None, None, NewWidget]) -> Answer:
        def unit(tx: Tx) -> Answer:
            ...
            return Answer(show(row), status=201, location=f"/widgets/{row.name}")
        return await call.create(unit)      # as write, and keeps the answer for a repeat (Idempotency-Key)

Times in answers are ``datetime`` in UTC (``at(seconds)``); ids that are numbers are ``RowId`` (the database's
integers end somewhere). Handlers raise ``Problem(code, detail)``; ``Refused``, ``Waiting``, ``Unavailable``,
``UnknownName`` and ``StoreError`` are turned into problems (or 202) for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Protocol, TypeVar

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.services import Services
from certloom.audit import Origin
from certloom.identity.principals import ANYTHING, PERMISSIONS, Principal, Thing, shared
from certloom.store.base import Tx

P = TypeVar("P")
Q = TypeVar("Q")
B = TypeVar("B")
T = TypeVar("T")

PREFIX = "/api/v1"
JSON = "application/json"
JSON_LINES = "application/jsonl"

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)", description="A name.")]
"""What profiles, channels, authorities, rules, roles and teams are called."""
RowId = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1, description="A number the server gave.")]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="An id the server gave.")]
Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""A moment in a request: RFC 3339, with its zone."""


class Public(msgspec.Struct, frozen=True):
    """In the place of a permission: anybody may, and why. ``Call.principal`` is ``NOBODY`` then."""

    reason: str


class Authenticated(msgspec.Struct, frozen=True):
    """In the place of a permission: whoever was authenticated may, and why (it is about themselves)."""

    reason: str


Access = str | Public | Authenticated

NOBODY = Principal(kind="nobody", id="", name="nobody", owner="")

NOT_SEEN = "there is no such thing, or it is not yours to see"
"""With 404: what is there and hidden must not look other than what is not there."""


class Media(msgspec.Struct, frozen=True):
    """In ``Route.answers``: bytes of these media types (``application/pkix-cert``)."""

    types: tuple[str, ...]


class Stream(msgspec.Struct, frozen=True):
    """As an answer's value: pieces that leave as they come. Things become one line of JSON each."""

    pieces: AsyncGenerator[Any, None]
    """Structs (a line of JSON each) or bytes (as they are)."""


class Answer(msgspec.Struct, frozen=True):
    """What a handler says."""

    value: Any = None
    """A struct (sent as JSON), bytes (with ``media``), a ``Stream``, or None for no body."""
    status: int = 200
    media: str = ""
    """Empty: JSON, or for streams JSON lines."""
    etag: str | None = None
    """As ``etag()`` makes it."""
    location: str | None = None
    """Where the thing is: a path below ``/api/v1``, such as ``/requests/17``."""
    retry_after: int | None = None
    """Seconds."""
    headers: tuple[tuple[str, str], ...] = ()


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a listing."""

    items: tuple[T, ...]
    next: str | None = None
    """Give it as ``cursor`` for what follows; null at the end."""


class Paging(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every listing can be asked with."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000, description="How many to answer at most.")] = 100
    cursor: Annotated[str, msgspec.Meta(max_length=1024, description="`next` of the page before.")] | None = (
        None
    )


class Upload(msgspec.Struct, frozen=True):
    """A body that is not JSON, of one of the route's ``uploads``."""

    media: str
    data: bytes


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    method: str
    template: str
    """Below ``/api/v1``; whole segments may be parameters: ``/certificates/{id}``."""
    permission: Access
    summary: str
    description: str
    path: type[Any] | None
    query: type[Any] | None
    body: Any
    uploads: tuple[str, ...]
    answers: Mapping[int, Any]
    problems: tuple[str, ...]
    edits: bool
    etag: bool
    keyed: bool
    tag: str
    handler: Handler
    again: Again | None


Handler = Callable[["Call[Any, Any, Any]"], Awaitable[Answer]]
Again = Callable[["Call[Any, Any, Any]", bytes], Awaitable[None]]
H = TypeVar("H", bound=Handler)

ROUTES: list[Route] = []
"""Every route that was declared, in the order of the modules' imports."""


def route(
    method: str,
    template: str,
    *,
    permission: Access,
    summary: str,
    answers: Mapping[int, Any],
    tag: str,
    path: type[Any] | None = None,
    query: type[Any] | None = None,
    body: Any = None,
    uploads: tuple[str, ...] = (),
    problems: tuple[str, ...] = (),
    edits: bool = False,
    etag: bool = False,
    keyed: bool | None = None,
    again: Again | None = None,
) -> Callable[[H], H]:
    """Declare a route; the function's docstring is its description.

    ``answers`` gives for each status a struct, ``Page[...]``, ``Media((...))``, several of these as a tuple
    (then ``Call.accepts`` chooses), or None for no body. ``problems`` are codes beyond those that every route
    may have. ``edits``: the handler calls ``require_match``, and If-Match is documented and 412 and 428
    with it; ``etag``: answers carry an ETag. ``keyed``: an Idempotency-Key is heeded (POST, unless said
    otherwise). A repeat is answered to who may still do all that ``Call.allow`` let them; where the handler
    asks in other words, ``again`` (with the body of the answer) raises a ``Problem`` unless they may.
    ``uploads``: media types taken besides JSON; ``Call.body`` is then an ``Upload``.

    The permission is asked for before anything is read (there must be something they have it for); the
    handler asks again with ``Call.allow`` for the thing itself.
    """
    if isinstance(permission, str) and permission not in PERMISSIONS:
        raise ValueError(f"{method} {template}: there is no permission {permission!r}")

    def declare(handler: H) -> H:
        ROUTES.append(
            Route(
                method=method,
                template=template,
                permission=permission,
                summary=summary,
                description=_paragraphs(handler.__doc__),
                path=path,
                query=query,
                body=body,
                uploads=uploads,
                answers=answers,
                problems=problems,
                edits=edits,
                etag=etag or edits,
                keyed=method == "POST" if keyed is None else keyed,
                tag=tag,
                handler=handler,
                again=again,
            )
        )
        return handler

    return declare


class Call(Generic[P, Q, B]):
    """One request, authenticated and decoded, on its way to an answer."""

    __slots__ = (
        "_allowed",
        "base_url",
        "body",
        "headers",
        "key",
        "origin",
        "path",
        "principal",
        "query",
        "raw_query",
        "route",
        "services",
    )

    def __init__(
        self,
        *,
        services: Services,
        route: Route,
        principal: Principal,
        origin: Origin,
        path: P,
        query: Q,
        body: B,
        headers: Mapping[str, str],
        raw_query: str,
        base_url: str,
        key: Keyed | None,
    ) -> None:
        self.services = services
        self.route = route
        self.principal = principal
        self.origin = origin
        """Who and where from, for events."""
        self.path = path
        self.query = query
        self.body = body
        self.headers = headers
        """By lower-case name."""
        self.raw_query = raw_query
        self.base_url = base_url
        """``https://pki.example.com``, as clients see this listener; empty for the local operator."""
        self.key = key
        self._allowed: dict[tuple[str, Thing], None] = {}
        """What was asked with ``allow`` and granted, in order: a repeat must be allowed the same."""

    # -- may they? ---------------------------------------------------------------------------------------

    def allow(self, permission: str, thing: Thing = ANYTHING) -> None:
        """Raise 403 where they may not, or 404 where they may not even see such a thing there."""
        if self.principal.may(permission, thing):
            self._allowed[permission, thing] = None
            return
        sight = permission.partition(".")[0] + ".read"
        if sight in PERMISSIONS and not self.principal.may(sight, thing):
            raise Problem(problems.NOT_FOUND, NOT_SEEN)
        raise Problem(problems.FORBIDDEN, f"this takes the permission {permission} here")

    def allow_shared(self, permission: str, *, profile: str = "", channel: str = "") -> None:
        """Raise 403 unless a grant without a narrower scope lets them: it is about everybody's."""
        thing = shared(profile=profile, channel=channel)
        if not self.principal.may(permission, thing):
            raise Problem(problems.FORBIDDEN, f"this takes the permission {permission} in a wider scope")
        self._allowed[permission, thing] = None

    def may(self, permission: str, thing: Thing = ANYTHING) -> bool:
        """Whether they may, for sifting rows."""
        return self.principal.may(permission, thing)

    # -- preconditions -----------------------------------------------------------------------------------

    def require_match(self, current: str | None) -> None:
        """Compare If-Match with the thing's ETag; to be called inside the unit that changes it.

        ``current`` is None where the thing does not exist yet. Raises 412 where the client saw another
        version (or, with ``If-None-Match: *``, where there is one), and 428 where it does not say which.
        """
        wanted, absent = self.headers.get("if-match"), self.headers.get("if-none-match")
        if wanted is not None:
            if current is None or not _names(wanted, current):
                raise Problem(problems.PRECONDITION_FAILED, "it is not as If-Match says; look again")
        elif absent is not None and absent.strip() == "*":
            if current is not None:
                raise Problem(problems.PRECONDITION_FAILED, "there is one of that name")
        elif current is not None:
            raise Problem(
                problems.PRECONDITION_REQUIRED, "say with If-Match which version you saw (its ETag), or *"
            )

    # -- writing -----------------------------------------------------------------------------------------

    async def write(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit in a transaction; it returns when that is durable."""
        return await self.services.store.write(unit)

    async def create(self, unit: Callable[[Tx], Answer]) -> Answer:
        """As ``write``, for what makes something: keeps the answer under the request's Idempotency-Key."""

        def whole(tx: Tx) -> Answer:
            answer = unit(tx)
            self.remember(tx, answer)
            return answer

        return await self.services.store.write(whole)

    def remember(self, tx: Tx, answer: Answer) -> None:
        """Keep the answer for a repeat, in the transaction of what it tells of; nothing without a key."""
        if self.key is not None:
            self.key.keep(tx, answer, self._allowed)

    # -- listings ----------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Rows of the page asked for."""
        return self.query.limit if isinstance(self.query, Paging) else 100

    def position(self, kind: type[T]) -> T | None:
        """Where the page begins, as the one before said it with ``page``; None at the beginning."""
        cursor = self.query.cursor if isinstance(self.query, Paging) else None
        if cursor is None:
            return None
        return self.services.cursors.open(self._listing(), cursor, kind)

    def page(
        self,
        rows: Sequence[T],
        position: Callable[[T], Any],
        visible: Callable[[T], bool] | None = None,
    ) -> Answer:
        """A page out of up to ``limit + 1`` rows; ``position`` says of the last one where to go on.

        Rows that are not ``visible`` to who asks are left out, and the page is that much shorter.
        """
        within = rows[: self.limit]
        following = self.cursor(position(within[-1])) if len(rows) > len(within) else None
        return Answer(Page(tuple(row for row in within if visible is None or visible(row)), following))

    def cursor(self, position: Any) -> str:
        """A cursor that only this listing with these filters takes; ``position`` is what JSON can hold."""
        return self.services.cursors.seal(self._listing(), position)

    def _listing(self) -> str:
        filters = "" if self.query is None else _filters(self.query)
        return f"{self.route.template}?{filters}"

    def accepts(self, *offered: str) -> str:
        """The first of these media types that the client likes best. Raises 406."""
        from certloom.api.negotiation import choose

        found = choose(self.headers.get("accept", ""), offered)
        if found is None:
            raise Problem(problems.NOT_ACCEPTABLE, f"there is only {', '.join(offered)}")
        return found


class Keyed(Protocol):
    """An Idempotency-Key that was given; see ``api.idempotency``."""

    def keep(self, tx: Tx, answer: Answer, allowed: Iterable[tuple[str, Thing]]) -> None:
        """Store the answer under the key, in the transaction of what it tells of; and what it took."""
        ...


def etag(*parts: Any) -> str:
    """A strong entity tag over whatever makes one version of a thing differ from every other."""
    text = "\0".join(str(part) for part in parts)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'


def at(seconds: int) -> datetime:
    """A time in an answer, from the database's seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def at_or_none(seconds: int | None) -> datetime | None:
    """The same for times that may not be."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _names(header: str, tag: str) -> bool:
    """Whether an If-Match names this tag (RFC 9110 section 13.1.1: strong comparison)."""
    return header.strip() == "*" or tag in (part.strip() for part in header.split(","))


def _filters(query: Any) -> str:
    fields = {
        name: value
        for name, value in msgspec.structs.asdict(query).items()
        if name not in ("cursor", "limit")
    }
    return msgspec.json.encode(fields, order="deterministic").decode()


def _paragraphs(text: str | None) -> str:
    """A docstring without its indentation."""
    import inspect

    return inspect.cleandoc(text) if text else ""
