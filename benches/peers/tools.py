"""The tools that are compared: how each starts its servers and pushes a tree."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

# Of the first server; each further mirror has the next port.
PORT = 18730


class Tool:
    """One tool on one file system: `root`/m1, m2, … are the mirrors."""

    def __init__(self, mode, network, root, mirrors):
        self.mode = mode
        self.network = network
        self.root = root
        self.numbers = range(1, mirrors + 1)
        self.servers = []

    def start(self):
        """Starts what receives, for a mode that needs it."""
        for number in self.numbers:
            (self.root / f"m{number}").mkdir()
        if self.mode == "ssh":
            self.serve(PORT, *start_sshd(self.root))
        elif self.mode == "daemon":
            self.start_daemons()

    def serve(self, port, *command):
        """Starts a server at the mirror, and waits until it listens."""
        words = [*self.network.mirror, *map(str, command)]
        quiet = subprocess.DEVNULL
        self.servers.append(subprocess.Popen(words, stdout=quiet, stderr=quiet))
        for _ in range(200):
            if is_listening(port, self.network.mirror):
                return
            time.sleep(0.05)
        raise SystemExit(f"does not listen on port {port}: {' '.join(words)}")

    def stop(self):
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            server.wait()
        self.servers.clear()

    def mirror(self, number):
        return self.root / f"m{number}"

    def ssh(self):
        """The ssh command that reaches the mirror."""
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        return f"ssh -F none -i {self.root}/ssh/key {options}"

    def at_origin(self, *command):
        return [*self.network.origin, *map(str, command)]


class Rsync(Tool):
    flags = "-a"

    @classmethod
    def version(cls):
        return first_line("rsync", "--version").replace("  ", " ").split(" protocol")[0]

    def start_daemons(self):
        conf = self.root / "rsyncd.conf"
        conf.write_text(
            f"port = {PORT}\naddress = {self.network.host}\nuse chroot = no\n"
            f"uid = root\ngid = root\n[m]\npath = {self.root}\nread only = no\n"
        )
        self.serve(PORT, "rsync", "--daemon", "--no-detach", f"--config={conf}")

    def served(self, number):
        tree = self.mirror(number) / "tree"
        tree.mkdir(exist_ok=True)
        return tree

    def destination(self, number):
        if self.mode == "dir":
            return self.served(number)
        if self.mode == "ssh":
            return f"root@{self.network.host}:{self.served(number)}"
        return f"rsync://{self.network.host}:{PORT}/m/{self.served(number).relative_to(self.root)}"

    def push(self, tree):
        """One command for each mirror."""
        shell = [f"--rsh={self.ssh()} -p {PORT}"] if self.mode == "ssh" else []
        flags = [*self.flags.split(), *shell, "--delete"]
        return [
            self.at_origin("rsync", *flags, f"{tree}/", f"{self.destination(number)}/")
            for number in self.numbers
        ]

    def push_directly(self, tree):
        return [["rsync", "-a", "--delete", f"{tree}/", f"{self.served(n)}/"] for n in self.numbers]


class RsyncCompressed(Rsync):
    flags = "-az"


class RsyncChecksum(Rsync):
    flags = "-azc"


class Headwater(Tool):
    program = "target/release/headwater"
    options = ("--site", "bench", "--allow-shrink", "--keep-removed", "0s", "--quiet")

    @classmethod
    def version(cls):
        return first_line(cls.program, "--version")

    def start_daemons(self):
        if self.network.host != "127.0.0.1":
            make_certificate(self.root, self.network.host)
        for number in self.numbers:
            port = PORT + number
            if self.network.host == "127.0.0.1":
                listen = ["--listen", f"127.0.0.1:{port}", "--no-auth"]
                self.serve(port, self.program, "serve", self.mirror(number), *listen)
            else:
                self.serve(port, self.program, "serve", "--config", self.serve_toml(number, port))

    def serve_toml(self, number, port):
        """A receiver with TLS and a token, which every other address than loopback needs."""
        conf = self.root / f"serve-{number}.toml"
        conf.write_text(
            f'listen = "{self.network.host}:{port}"\n'
            '[tls]\ncert = "cert.pem"\nkey = "key.pem"\n'
            f'[[site]]\nname = "bench"\ndir = "{self.mirror(number)}"\n'
            "quota_entries = 100000000\n"
        )
        new = [self.program, "token", "new", "--site", "bench", "--allow", "push", "--append", conf]
        token = subprocess.run(new, check=True, capture_output=True).stdout
        file = self.root / f"token-{number}"
        file.touch(mode=0o600)
        file.write_bytes(token)
        return conf

    def served(self, number):
        return self.mirror(number) / "current"

    def destination(self, number):
        if self.mode == "dir":
            return self.mirror(number)
        if self.mode == "ssh":
            return f"ssh://root@{self.network.host}:{PORT}{self.mirror(number)}"
        if self.network.host == "127.0.0.1":
            return f"http://127.0.0.1:{PORT + number}"
        return f"m{number}"

    def config(self):
        """The mirrors with certificates and tokens, for the origin."""
        tables = [
            f'[[mirror]]\nname = "m{n}"\nurl = "https://{self.network.host}:{PORT + n}/bench"\n'
            f'token_file = "token-{n}"\nca = "cert.pem"\n'
            for n in self.numbers
        ]
        conf = self.root / "headwater.toml"
        conf.write_text("".join(tables))
        return ["--config", conf]

    def push(self, tree):
        """One command for all mirrors."""
        options = list(self.options)
        if self.mode == "daemon" and self.network.host != "127.0.0.1":
            options += self.config()
        if self.mode == "ssh":
            options += ["--ssh-command", self.ssh(), "--receive-command", self.program]
        destinations = [self.destination(number) for number in self.numbers]
        return [self.at_origin(self.program, "push", tree, *destinations, *options)]

    def push_directly(self, tree):
        mirrors = [str(self.mirror(number)) for number in self.numbers]
        return [[self.program, "push", str(tree), *mirrors, *self.options]]


TOOLS = {
    "rsync -a": Rsync,
    "rsync -az": RsyncCompressed,
    "rsync -azc": RsyncChecksum,
    "headwater": Headwater,
}


def first_line(*command):
    return subprocess.run(command, check=True, capture_output=True).stdout.decode().splitlines()[0]


def is_listening(port, inside):
    """Whether a process listens on `port`, in any namespace."""
    tables = ["cat", "/proc/net/tcp", "/proc/net/tcp6"]
    # Without IPv6, there is no tcp6.
    text = subprocess.run([*inside, *tables], check=False, capture_output=True).stdout.decode()
    rows = [line.split() for line in text.splitlines()]
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in rows)


def make_certificate(directory, host):
    """A self-signed certificate, as docs/receivers.md makes one."""
    extensions = [f"subjectAltName=IP:{host}", "basicConstraints=critical,CA:FALSE"]
    command = ["openssl", "req", "-x509", "-nodes", "-days", "90", "-subj", "/CN=peers"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-keyout", directory / "key.pem"]
    command += ["-out", directory / "cert.pem"]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def start_sshd(root):
    """The command of an sshd with a temporary key, which lets root in with it."""
    keys = root / "ssh"
    keys.mkdir(mode=0o700)
    for name in ["host", "key"]:
        new = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name]
        subprocess.run(new, check=True)
    shutil.copy(keys / "key.pub", keys / "authorized")
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    conf = keys / "sshd_config"
    conf.write_text(
        f"Port {PORT}\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/authorized\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\n"
        "UsePAM no\nPidFile none\n"
    )
    return [shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin"), "-D", "-f", conf]
