"""npm's acme-client: http-01, dns-01, tls-alpn-01, wildcards, EAB, revocation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.checks import Obtained, check
from tests.clients.lab import ADDRESS, TOOLS, Lab, environment, fresh_name, run
from tests.clients.servers import Servers
from tests.clients.target import Target

_SCRIPT = """
const acme = require('acme-client'), fs = require('fs'), http = require('http'), tls = require('tls');
const ask = JSON.parse(fs.readFileSync(process.argv[2]));
const answers = {}, contexts = {};

async function listen() {
  if (ask.challenge === 'http-01') {
    const server = http.createServer((request, response) => {
      const answer = answers[request.url.split('/').pop()];
      response.statusCode = answer ? 200 : 404;
      response.end(answer || '');
    });
    await new Promise(done => server.listen(ask.http_port, ask.address, done));
  } else if (ask.challenge === 'tls-alpn-01') {
    const server = tls.createServer({
      ALPNProtocols: ['acme-tls/1'],
      SNICallback: (name, done) => done(null, contexts[name]),
    });
    server.on('tlsClientError', () => {});
    await new Promise(done => server.listen(ask.tls_port, ask.address, done));
  }
}

async function manage(command, body) {
  await fetch(`${ask.management}/${command}`, { method: 'POST', body: JSON.stringify(body) });
}

async function begin(authorization, challenge, answer) {
  const name = authorization.identifier.value;
  if (challenge.type === 'http-01') {
    answers[challenge.token] = answer;
  } else if (challenge.type === 'dns-01') {
    await manage('set-txt', { host: `_acme-challenge.${name}.`, value: answer });
  } else {
    const [key, cert] = await acme.crypto.createAlpnCertificate(authorization, answer);
    contexts[name] = tls.createSecureContext({ key, cert });
  }
}

async function end(authorization, challenge) {
  if (challenge.type === 'dns-01') {
    await manage('clear-txt', { host: `_acme-challenge.${authorization.identifier.value}.` });
  }
}

async function main() {
  await listen();
  const client = new acme.Client({
    directoryUrl: ask.directory,
    accountKey: await acme.crypto.createPrivateEcdsaKey(),
    externalAccountBinding: ask.eab ? { kid: ask.eab.kid, hmacKey: ask.eab.hmac } : undefined,
  });
  const [key, csr] = await acme.crypto.createCsr(
    { altNames: ask.names }, await acme.crypto.createPrivateEcdsaKey());
  const chain = await client.auto({
    csr,
    email: 'admin@example.com',
    termsOfServiceAgreed: true,
    challengePriority: [ask.challenge],
    skipChallengeVerification: true,
    challengeCreateFn: begin,
    challengeRemoveFn: end,
  });
  fs.writeFileSync('chain.pem', chain);
  fs.writeFileSync('it.key', key);
  if (ask.revoke) {
    await client.revokeCertificate(chain, { reason: 4 });
  }
}

main().then(() => process.exit(0), error => { console.error(error); process.exit(1); });
"""


def _obtain(
    lab: Lab, folder: Path, target: Target, challenge: str, *names: str, revoke: bool = False
) -> Obtained:
    ask = {
        "directory": target.directory,
        "challenge": challenge,
        "names": names,
        "address": ADDRESS,
        "http_port": lab.http_port,
        "tls_port": lab.tls_port,
        "management": lab.management,
        "eab": {"kid": target.eab.kid, "hmac": target.eab.hmac} if target.eab else None,
        "revoke": revoke,
    }
    (folder / "ask.json").write_text(json.dumps(ask))
    (folder / "client.js").write_text(_SCRIPT)
    modules = TOOLS / "acme-client/node_modules"
    env = environment(folder, NODE_EXTRA_CA_CERTS=str(target.tls_ca), NODE_PATH=str(modules))
    run(["node", "client.js", "ask.json"], env=env, cwd=folder)
    return check(target.roots, folder / "chain.pem", folder / "it.key", names)


def test_http_01_and_revocation(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    target = servers.target()
    obtained = _obtain(lab, tmp_path, target, "http-01", fresh_name(), fresh_name(), revoke=True)
    servers.assert_revoked(obtained, reason=4)


@pytest.mark.parametrize(("challenge", "prefix"), [("dns-01", "*."), ("tls-alpn-01", "")])
def test_the_other_challenges(
    challenge: str, prefix: str, lab: Lab, servers: Servers, tmp_path: Path
) -> None:
    _obtain(lab, tmp_path, servers.target(), challenge, prefix + fresh_name())


def test_external_account_binding(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    _obtain(lab, tmp_path, servers.target(eab=True), "http-01", fresh_name())
