"""A real Vault on this machine, and the init Job's scripts as they run in its pod."""

import base64
import functools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from components import pins, scripts
from components.vault.args import People, VaultArgs
from components.vault.policies import program_policy
from components.vault.server import server_configuration

_VARIABLE = "SHLINK_TEST_BINARIES"
NO_VAULT = f"no Vault to try it on: put `vault` on the PATH, or into the folder {_VARIABLE} names"
LOGIN = "pulumi"
KEY_COUNT, KEY_THRESHOLD = 5, 3
"""bank-vaults' defaults."""


def binary(name: str) -> str | None:
    """A command from the PATH, or from the folder that the variable names."""
    folders = os.pathsep.join([os.environ.get(_VARIABLE, ""), os.environ.get("PATH", "")])
    return shutil.which(name, path=folders)


@functools.cache
def _image() -> str:
    """A name of the product that the command is: Vault, or OpenBao in its place."""
    command = binary("vault") or "true"
    answer = subprocess.run([command, "version"], capture_output=True, check=True)  # noqa: S603
    openbao = b"OpenBao" in answer.stdout
    return "docker.io/openbao/openbao:2.6.2" if openbao else pins.VAULT_IMAGE


def vault_args(people: People | None = None, rotation: int = 1) -> VaultArgs:
    """Defaults; scripts and configuration need neither a certificate nor an engine."""
    nothing = cast("Any", None)
    return VaultArgs(
        image=_image(),
        namespace="vault",
        authority=nothing,
        provider_address="https://localhost",
        access=nothing,
        people=people,
        rotation=rotation,
    )


class VaultServer:
    """One server with the program's own configuration, its volume in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "run/keys"
        for name in ("run/keys", "run/init", "run/login", "run/tls", "tmp", "data"):
            (folder / name).mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._cluster_port = listener.getsockname()[1]
        self.address = f"https://127.0.0.1:{self.port}"
        self._certify()
        self.rotation = 0
        self.new_login()
        self._process: subprocess.Popen[bytes] | None = None

    def new_login(self) -> None:
        """Another role id and secret id, as after a rotation."""
        self.rotation += 1
        login = self.folder / "run/login"
        (login / "role-id").write_text(f"p{secrets.token_hex(16)}")
        (login / "secret-id").write_text(f"p{secrets.token_hex(16)}")
        (login / "policy").write_text(program_policy(vault_args(rotation=self.rotation)))

    def start(self) -> None:
        """Start the server and wait until it answers."""
        config = server_configuration("vault", vault_args())
        config["listener"]["tcp"] |= {
            "address": f"127.0.0.1:{self.port}",
            "cluster_address": f"127.0.0.1:{self._cluster_port}",
            "tls_cert_file": str(self.folder / "run/tls/tls.crt"),
            "tls_key_file": str(self.folder / "run/tls/tls.key"),
        }
        for storage in config["storage"].values():
            storage["path"] = str(self.folder / "data")
        config["ui"] = False
        file = self.folder / "config.json"
        file.write_text(json.dumps(config))
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [str(binary("vault")), "server", f"-config={file}"],
                stdout=log,
                stderr=log,
                env={
                    "VAULT_API_ADDR": self.address,
                    "VAULT_CLUSTER_ADDR": f"https://127.0.0.1:{self._cluster_port}",
                    "HOME": str(self.folder),
                },
            )
        for _ in range(300):
            if self.vault("operator", "init", "-status", "-format=json").stdout:
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=30)
            self._process = None

    def lose_volume(self) -> None:
        self.stop()
        shutil.rmtree(self.folder / "data")
        (self.folder / "data").mkdir()
        self.start()

    def vault(
        self, *arguments: str, token: str = "", text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Vault's command against this server."""
        return subprocess.run(  # noqa: S603 - our own command line
            [str(binary("vault")), *arguments],
            env=self._environment({"VAULT_TOKEN": token, "VAULT_MAX_RETRIES": "0"}),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def must(self, *arguments: str, token: str, text: str | None = None) -> str:
        """What the command prints. Raises AssertionError when Vault refuses."""
        answer = self.vault(*arguments, token=token, text=text)
        assert answer.returncode == 0, f"{arguments}: {answer.stderr}"
        return answer.stdout

    def initialise(self, chosen: str | None) -> str:
        """Initialise as bank-vaults does: keys into the Secret; `chosen` becomes a root token.

        Returns the first root token, which is revoked if there is a chosen one.
        """
        shares = (f"-key-shares={KEY_COUNT}", f"-key-threshold={KEY_THRESHOLD}")
        answer = json.loads(self.vault("operator", "init", *shares, "-format=json").stdout)
        for number, key in enumerate(answer["unseal_keys_b64"]):
            (self.keys / f"vault-unseal-{number}").write_text(key)
        self.unseal()
        root = answer["root_token"]
        if chosen is not None:
            policy = ("-id=" + chosen, "-policy=root", "-orphan")
            assert self.vault("token", "create", *policy, token=root).returncode == 0
            assert self.vault("token", "revoke", "-self", token=root).returncode == 0
        return root

    def sidecar(self) -> subprocess.Popen[bytes]:
        """bank-vaults as it unseals in the server's pod, with a folder in place of the Secret."""
        return subprocess.Popen(  # noqa: S603 - our own command line
            [str(binary("bank-vaults")), "unseal"],
            env=self._environment(self.bank_vaults()),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def bank_vaults(self) -> dict[str, str]:
        """The variables of both of bank-vaults' commands."""
        return {
            "BANK_VAULTS_MODE": "file",
            "BANK_VAULTS_FILE_PATH": str(self.keys),
            "BANK_VAULTS_STORE_ROOT_TOKEN": "false",
        }

    def unseal(self) -> None:
        """What the sidecar does."""
        for file in sorted(self.keys.glob("vault-unseal-*"))[:KEY_THRESHOLD]:
            self.vault("operator", "unseal", file.read_text())

    def step(
        self, name: str, *, cut_off_after: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """One container of the Job: its script, its volumes, its variables.

        `cut_off_after`: the line of the script after which the pod is gone.
        """
        text = scripts.read(f"vault_{name}.sh")
        if cut_off_after:
            assert text.count(f"\n{cut_off_after}\n") == 1
            text = text.replace(f"\n{cut_off_after}\n", f"\n{cut_off_after}\nexit 137\n")
        text = re.sub(r"/(run|tmp)/", rf"{self.folder}/\1/", text)
        # A container waits minutes between its tries.
        text = text.replace('"$tries" -lt 60', '"$tries" -lt 2').replace("-ge 60", "-ge 2")
        role, former_role = vault_args(rotation=self.rotation).roles
        environment = {
            "SERVERS": self.address,
            "SELF_UNSEALED": "false",
            "SECRET": "vault/vault-unseal-keys",
            "LOGIN": LOGIN,
            "ROLE": role,
            "FORMER_ROLE": former_role,
            "TOKEN_TTL": "7200",
            "VAULT_MAX_RETRIES": "0",
        }
        return subprocess.run(  # noqa: S603 - our own command line
            ["/bin/sh", "-c", text],
            env=self._environment(environment | variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def login(self) -> str:
        """The program's token. Raises AssertionError when the login is refused."""
        folder = self.folder / "run/login"
        answer = self.vault(
            *("write", "-field=token", f"auth/{LOGIN}/login"),
            f"role_id=@{folder / 'role-id'}",
            f"secret_id=@{folder / 'secret-id'}",
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def root_tokens(self, token: str) -> list[str]:
        """Accessors of all root tokens, seen with `token`."""
        accessors = json.loads(
            self.vault("list", "-format=json", "auth/token/accessors", token=token).stdout
        )
        roots: list[str] = []
        for accessor in accessors:
            lookup = self.vault(
                "token", "lookup", "-accessor", "-format=json", accessor, token=token
            )
            if lookup.returncode == 0 and json.loads(lookup.stdout)["data"]["policies"] == ["root"]:
                roots.append(accessor)
        return roots

    def generate_root(self) -> str:
        """A root token from the keys, by the endpoint that Vault and OpenBao both have."""
        attempt, update = "sys/generate-root/attempt", "sys/generate-root/update"
        started = json.loads(self.vault("write", "-force", "-format=json", attempt).stdout)["data"]
        encoded = ""
        for file in sorted(self.keys.glob("vault-unseal-*"))[:KEY_THRESHOLD]:
            key = (f"nonce={started['nonce']}", f"key=@{file}")
            answer = self.vault("write", "-format=json", update, *key)
            encoded = json.loads(answer.stdout)["data"]["encoded_root_token"]
        token = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
        return bytes(a ^ b for a, b in zip(token, started["otp"].encode(), strict=True)).decode()

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        folder = str(Path(str(binary("vault"))).parent)
        return {
            "PATH": os.pathsep.join([folder, os.environ["PATH"]]),
            "HOME": str(self.folder / "tmp"),
            "VAULT_ADDR": self.address,
            "VAULT_CACERT": str(self.folder / "run/tls/ca.crt"),
            **variables,
        }

    def _certify(self) -> None:
        """An authority and a certificate of the kind that components/credentials/tls.py makes."""
        folder = self.folder / "run/tls"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        openssl = ("openssl", "req", "-x509", *curve, "-days", "2")
        authority = ("-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
        server = ("-keyout", "tls.key", "-out", "tls.crt", "-subj", "/CN=vault")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", names)
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
        for command in ((*openssl, *authority), (*openssl, *server, *signed, *leaf)):
            subprocess.run(  # noqa: S603 - our own command line
                command, cwd=folder, check=True, capture_output=True
            )
