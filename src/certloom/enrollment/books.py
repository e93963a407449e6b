"""What is configured, in memory: profiles, rules, channels and authorities, reloaded when they change.

The database holds them; these books are this process's reading of it. ``Books.refresh`` looks whether the
configuration's generation has risen (another process may have applied a change) and reloads if so.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from certloom.authorities.base import Authority
from certloom.policy.anchors import TrustAnchors, certificates_of
from certloom.policy.channels import ACMEChannel, Channel, ESTChannel
from certloom.policy.profiles import Profile, parse_profile
from certloom.policy.rules import NO_RULES, Rule, Ruleset, stored_rule
from certloom.store import authorities as authority_statements
from certloom.store import configuration
from certloom.store import rules as rule_statements
from certloom.store.authorities import StoredAuthority, StoredGeneration
from certloom.store.base import Store, Tx

_decode_anchors = msgspec.json.Decoder(TrustAnchors).decode
_decode_channel = msgspec.json.Decoder[Channel](Channel).decode


class UnknownName(LookupError):
    """No profile, version or authority of that name."""


class Reading(msgspec.Struct, frozen=True):
    """One consistent reading of the configuration."""

    generation: int
    profiles: dict[str, dict[int, Profile]]
    current: dict[str, int]
    channels: dict[tuple[str, str], Channel]
    authorities: tuple[StoredAuthority, ...]
    rules: tuple[tuple[Rule, int], ...] = ()
    """The newest version of each rule, with its number."""
    ruleset: Ruleset = NO_RULES
    """Those of them that are in force."""
    generations: tuple[StoredGeneration, ...] = ()
    """Of all authorities: those that have a certificate."""
    anchors: dict[str, tuple[bytes, ...]] = {}
    """Trust anchors by name: DER."""


def read_configuration(tx: Tx) -> Reading:
    """Read and decode all of it in one unit."""
    profiles: dict[str, dict[int, Profile]] = {}
    current: dict[str, int] = {}
    for name, version, body in configuration.profile_versions(tx):
        profiles.setdefault(name, {})[version] = parse_profile(msgspec.json.decode(body))
        current[name] = version
    rules = tuple((stored_rule(row.body), row.version) for row in rule_statements.current(tx))
    ruleset = Ruleset(rules)
    return Reading(
        configuration.generation(tx),
        profiles,
        current,
        {(protocol, name): _decode_channel(body) for protocol, name, body in configuration.channels(tx)},
        tuple(authority_statements.every(tx)),
        rules,
        ruleset if ruleset else NO_RULES,
        tuple(g for g in authority_statements.generations(tx) if g.certificate is not None),
        {name: certificates_of(_decode_anchors(body)) for name, body in configuration.anchors(tx)},
    )


class Books:
    """The configuration as this process last read it."""

    def __init__(self, store: Store, make_authority: Callable[[StoredAuthority], Authority]) -> None:
        """``make_authority`` turns a row into something that issues; it is asked again when
        the row changes."""
        self._store = store
        self._make_authority = make_authority
        self._reading = Reading(-1, {}, {}, {}, ())
        self._authorities: dict[str, Authority] = {}
        self._by_key_identifier: dict[bytes, str] = {}

    async def refresh(self) -> bool:
        """Reload if the configuration changed; answer whether it did."""
        generation = await self._store.read(configuration.generation)
        if generation == self._reading.generation:
            return False
        reading = await self._store.scan(read_configuration)
        before = {row.name: row for row in self._reading.authorities}
        for row in reading.authorities:
            if row != before.get(row.name):
                self._authorities[row.name] = self._make_authority(row)
        # Also what past generations have issued is found by who issued it.
        self._by_key_identifier = {
            g.key_identifier: g.authority for g in reading.generations if g.key_identifier is not None
        }
        self._reading = reading
        return True

    @property
    def generation(self) -> int:
        """Which generation of the configuration was read last; -1 before the first."""
        return self._reading.generation

    def profile(self, name: str, version: int | None = None) -> tuple[Profile, int]:
        """A profile and its version, the newest unless one is named. Raises ``UnknownName``."""
        if version is None:
            version = self._reading.current.get(name)
        found = self._reading.profiles.get(name, {}).get(version) if version is not None else None
        if found is None or version is None:
            raise UnknownName(f"there is no profile {name!r}" + (f" version {version}" if version else ""))
        return found, version

    def has_profile(self, name: str) -> bool:
        return name in self._reading.current

    def profiles(self) -> dict[str, tuple[Profile, int]]:
        """The newest version of each profile."""
        return {
            name: (self._reading.profiles[name][version], version)
            for name, version in self._reading.current.items()
        }

    @property
    def rules(self) -> Ruleset:
        """The policy rules in force."""
        return self._reading.ruleset

    @property
    def reading(self) -> Reading:
        """All of it, as it was read last."""
        return self._reading

    def acme_channel(self, name: str) -> ACMEChannel | None:
        found = self._reading.channels.get(("acme", name))
        return found if isinstance(found, ACMEChannel) else None

    def est_channel(self, name: str) -> ESTChannel | None:
        found = self._reading.channels.get(("est", name))
        return found if isinstance(found, ESTChannel) else None

    def has_channel(self, protocol: str, name: str) -> bool:
        return (protocol, name) in self._reading.channels

    def anchors(self, name: str) -> tuple[bytes, ...]:
        """DER of a set of trust anchors; none where there is no such set."""
        return self._reading.anchors.get(name, ())

    def channels(self) -> tuple[Channel, ...]:
        return tuple(self._reading.channels.values())

    def authority(self, name: str) -> Authority:
        """Raises ``UnknownName``."""
        try:
            return self._authorities[name]
        except KeyError:
            raise UnknownName(f"there is no authority {name!r}") from None

    def authority_rows(self) -> tuple[StoredAuthority, ...]:
        return self._reading.authorities

    def generations(self, name: str) -> tuple[StoredGeneration, ...]:
        """Those of an authority that have a certificate, oldest first."""
        return tuple(g for g in self._reading.generations if g.authority == name)

    def authority_row(self, name: str) -> StoredAuthority:
        """Raises ``UnknownName``."""
        for row in self._reading.authorities:
            if row.name == name:
                return row
        raise UnknownName(f"there is no authority {name!r}")

    def authority_by_key_identifier(self, key_identifier: bytes) -> str | None:
        """The name of the authority that has, in any of its generations, this subject key identifier (an
        issued certificate's AKI)."""
        return self._by_key_identifier.get(key_identifier)

    async def close(self) -> None:
        """Let authorities give back what they hold."""
        for authority in self._authorities.values():
            await authority.close()
