"""Run by certbot's Python, which has the ``acme`` library.

Does what the JSON on standard input asks, and says in JSON on standard output what came of it.
"""

import datetime
import ipaddress
import json
import sys
import threading
from typing import Any

import josepy
from acme import challenges, client, crypto_util, messages, standalone
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def main() -> None:
    ask = json.load(sys.stdin)
    account_key = josepy.JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
    network = client.ClientNetwork(account_key, alg=josepy.ES256, user_agent="certloom-tests")
    directory = messages.Directory.from_json(network.get(ask["directory"]).json())
    acme = client.ClientV2(directory, network)
    registration: dict[str, Any] = {"terms_of_service_agreed": True}
    if ask["eab"]:
        registration["external_account_binding"] = messages.ExternalAccountBinding.from_data(
            account_key.public_key(), ask["eab"]["kid"], ask["eab"]["hmac"], directory
        )
    account = acme.new_account(messages.NewRegistration.from_data(**registration))

    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    addresses = [ipaddress.ip_address(address) for address in ask["addresses"]]
    order = acme.new_order(crypto_util.make_csr(key_pem, domains=ask["names"], ipaddrs=addresses))
    resources, responses = set(), []
    for authorization in order.authorizations:
        if authorization.body.status == messages.STATUS_VALID:
            continue
        challenge = next(c for c in authorization.body.challenges if isinstance(c.chall, challenges.HTTP01))
        response, validation = challenge.response_and_validation(account_key)
        resources.add(
            standalone.HTTP01RequestHandler.HTTP01Resource(
                chall=challenge.chall, response=response, validation=validation
            )
        )
        responses.append((challenge, response))
    server = standalone.HTTP01Server((ask["address"], ask["http_port"]), resources)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for challenge, response in responses:
        acme.answer_challenge(challenge, response)
    order = acme.poll_and_finalize(order, datetime.datetime.now() + datetime.timedelta(seconds=60))
    server.shutdown()
    with open("chain.pem", "w") as out:
        out.write(order.fullchain_pem)
    with open("it.key", "wb") as out_key:
        out_key.write(key_pem)

    outcome: dict[str, Any] = {}
    renew_at, _ = acme.renewal_time(order.fullchain_pem.encode())
    outcome["renew_at"] = renew_at.timestamp() if renew_at else None
    if ask["revoke"]:
        leaf = x509.load_pem_x509_certificate(order.fullchain_pem.encode())
        acme.revoke(leaf, 4)
        try:
            acme.revoke(leaf, 4)
        except messages.Error as error:
            outcome["second_revocation"] = error.typ
    if ask["deactivate"]:
        outcome["account"] = acme.deactivate_registration(account).body.status
        try:
            acme.new_order(crypto_util.make_csr(key_pem, domains=ask["names"], ipaddrs=addresses))
        except messages.Error as error:
            outcome["after_deactivation"] = error.typ
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    main()
