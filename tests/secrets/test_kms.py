"""Keys wrapped by AWS KMS, as moto has it: it checks signatures once it is told to."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.secrets.kms import Credentials, sign
from tests.clients.lab import free_port, listening, wait_for
from tests.secrets.authority import make_tls
from tests.secrets.keys import Keys

boto3 = pytest.importorskip("boto3")
auth = pytest.importorskip("botocore.auth")
awsrequest = pytest.importorskip("botocore.awsrequest")
MOTO = shutil.which("moto_server", path=str(Path(sys.executable).parent))
REGION = "eu-central-1"
_ACTIONS_BEFORE_CHECKS = 6


class KMS:
    """A service with two keys, and a user who may use them."""

    def __init__(self, folder: Path) -> None:
        self.roots, key = make_tls(folder)
        self.port = free_port("127.0.0.1")
        self.endpoint = f"https://127.0.0.1:{self.port}"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(MOTO), "-H", "127.0.0.1", "-p", str(self.port), "-c", str(self.roots), "-k", str(key)],
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "INITIAL_NO_AUTH_ACTION_COUNT": str(_ACTIONS_BEFORE_CHECKS),
                },
            )
        wait_for("moto", lambda: listening(self.port, "127.0.0.1"), 60)
        iam, kms = self._client("iam"), self._client("kms")
        iam.create_user(UserName="certloom")
        access = iam.create_access_key(UserName="certloom")["AccessKey"]
        rule = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
        iam.put_user_policy(UserName="certloom", PolicyName="use", PolicyDocument=document)
        self.key = kms.create_key()["KeyMetadata"]["Arn"]
        self.other = kms.create_key()["KeyMetadata"]["Arn"]
        kms.list_keys()  # the last action that is not checked
        self.access = {
            "AWS_ACCESS_KEY_ID": access["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": access["SecretAccessKey"],
        }

    def _client(self, name: str) -> Any:
        return boto3.client(
            name,
            endpoint_url=self.endpoint,
            region_name=REGION,
            verify=str(self.roots),
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
        )

    def section(self, **more: object) -> dict[str, object]:
        return {
            "key": self.key,
            "endpoint": self.endpoint,
            "roots": str(self.roots),
            "seconds": 10,
            **more,
        }


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KMS]:
    if MOTO is None:
        pytest.skip("moto is not installed")
    service = KMS(tmp_path_factory.mktemp("kms"))
    yield service
    service.process.terminate()
    service.process.wait(20)


def test_a_key_is_wrapped_at_the_first_start_and_opened_at_the_next(kms: KMS, keys: Keys) -> None:
    keys.settings("aws-kms", aws_kms=kms.section())
    made = keys.load(**kms.access)
    assert made.ok, made.said
    assert keys.load(**kms.access).id == made.id


def test_a_wrong_signature_and_a_stranger_are_refused(kms: KMS, keys: Keys) -> None:
    keys.settings("aws-kms", aws_kms=kms.section())
    wrong = keys.load(AWS_ACCESS_KEY_ID=kms.access["AWS_ACCESS_KEY_ID"], AWS_SECRET_ACCESS_KEY="wrong")
    assert "AWS KMS refuses to encrypt" in wrong.said
    assert "status 403" in wrong.said
    stranger = keys.load(AWS_ACCESS_KEY_ID="AKIANOBODY", AWS_SECRET_ACCESS_KEY="wrong")
    assert "AWS KMS refuses to encrypt" in stranger.said
    assert not keys.file.exists()


def test_the_key_file_is_bound_to_its_id(kms: KMS, keys: Keys) -> None:
    """The id is the encryption context: another id does not open the ciphertext."""
    import hashlib

    keys.settings("aws-kms", aws_kms=kms.section())
    assert keys.load(**kms.access).ok
    form = json.loads(keys.file.read_bytes().split(b" ", 2)[2]) | {"id": "00112233"}
    text = json.dumps(form).encode()
    check = hashlib.sha256(text).hexdigest()[:16].encode()
    keys.file.write_bytes(b"certloom-wrapped-key-v1 " + check + b" " + text + b"\n")
    assert "AWS KMS refuses to decrypt" in keys.load(**kms.access).said


def test_without_a_region_or_credentials_it_is_said(kms: KMS, keys: Keys) -> None:
    keys.settings("aws-kms", aws_kms=kms.section(key="alias/certloom"))
    assert "no region is set" in keys.load(**kms.access).said
    keys.settings("aws-kms", aws_kms=kms.section())
    refused = _metadata(tokens=False)
    said = keys.load(AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{refused.server_port}").said
    refused.shutdown()
    assert "there are no AWS credentials in the environment" in said


def _metadata(*, tokens: bool, **credentials: str) -> ThreadingHTTPServer:
    """The instance's metadata service, version 2: nothing without a session token."""

    class Service(BaseHTTPRequestHandler):
        def _say(self, status: int, text: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self) -> None:
            life = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            fit = tokens and self.path == "/latest/api/token" and life.isdigit()
            self._say(200, "the-session") if fit else self._say(403)

        def do_GET(self) -> None:
            roles = "/latest/meta-data/iam/security-credentials/"
            if self.headers.get("X-aws-ec2-metadata-token") != "the-session":
                self._say(401)
            elif self.path == roles:
                self._say(200, "certloom-role")
            elif self.path == roles + "certloom-role":
                self._say(200, json.dumps({"Code": "Success", **credentials, "Expiration": "2099-01-01"}))
            else:
                self._say(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_an_instance_s_role_gives_the_credentials(kms: KMS, keys: Keys) -> None:
    service = _metadata(
        tokens=True,
        AccessKeyId=kms.access["AWS_ACCESS_KEY_ID"],
        SecretAccessKey=kms.access["AWS_SECRET_ACCESS_KEY"],
    )
    keys.settings("aws-kms", aws_kms=kms.section())
    made = keys.load(AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://127.0.0.1:{service.server_port}")
    service.shutdown()
    assert made.ok, made.said


@given(
    payload=st.binary(max_size=200),
    secret=st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=60),
    token=st.just("") | st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1),
    at=st.integers(min_value=1_600_000_000, max_value=4_000_000_000),
)
def test_signatures_are_those_that_aws_own_library_makes(
    payload: bytes, secret: str, token: str, at: int
) -> None:
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "Host": "kms.eu-central-1.amazonaws.com",
        "X-Amz-Target": "TrentService.Decrypt",
    }
    ours = sign(Credentials("AKID", secret, token), REGION, "kms", headers, payload, at)
    request = awsrequest.AWSRequest(
        "POST", "https://kms.eu-central-1.amazonaws.com/", headers=headers, data=payload
    )
    if token:
        request.headers["X-Amz-Security-Token"] = token
    request.headers["X-Amz-Date"] = ours["X-Amz-Date"]
    request.context["timestamp"] = ours["X-Amz-Date"]
    theirs = auth.SigV4Auth(Credentials("AKID", secret, token), "kms", REGION)
    signature = theirs.signature(theirs.string_to_sign(request, theirs.canonical_request(request)), request)
    assert ours["Authorization"].endswith(f"Signature={signature}")
    assert ours["X-Amz-Date"] == datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
