"""The directory (RFC 8555 section 7.1.1) and its meta."""

from __future__ import annotations

from msgspec import UNSET

from certloom.policy.channels import ACMEChannel
from certloom.protocols.acme import messages
from certloom.protocols.acme.exchange import Answer
from certloom.protocols.acme.service import ACMEService
from certloom.protocols.acme.site import Site


def directory(service: ACMEService, site: Site, channel: ACMEChannel) -> Answer:
    """The directory. ``newAuthz`` is there only where it is offered."""
    acme = service.settings.acme
    persist = "dns-persist-01" in channel.challenges and channel.caa_identities
    known = service.books.profiles()
    body = messages.encode(
        messages.Directory(
            new_nonce=site.new_nonce,
            new_account=site.new_account,
            new_order=site.new_order,
            revoke_cert=site.revoke_cert,
            key_change=site.key_change,
            renewal_info=site.renewal_info.rstrip("/"),
            new_authz=site.new_authz if channel.new_authz else UNSET,
            meta=messages.Meta(
                terms_of_service=acme.terms_of_service or UNSET,
                website=acme.website or UNSET,
                caa_identities=channel.caa_identities or UNSET,
                external_account_required=channel.eab_required,
                profiles={
                    name: channel.profile_descriptions.get(name) or known[name][0].description or name
                    for name in channel.profiles
                    if name in known
                },
                # draft-ietf-acme-dns-persist sections 3.2 and 4.1
                issuer_domain_names=channel.caa_identities[:10] if persist else UNSET,
                account_hash_prefix=site.account_hash if persist else UNSET,
            ),
        )
    )
    return Answer(body, index=False)
