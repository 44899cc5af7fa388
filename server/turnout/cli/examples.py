"""Examples of each command, shown in its help and in the reference. A test parses each with its command."""

from turnout.cli.help_text import literal

EXAMPLES: dict[str, tuple[str, ...]] = {
    "serve": ("turnout serve", "turnout serve --models /mnt/models --read-only --grpc 127.0.0.1:9001"),
    "doctor": ("turnout doctor",),
    "tune": ("turnout tune magika@3.3.0", "turnout tune magika@3.3.0 --seconds 60 --write latency"),
    "publish": (
        "turnout publish magika 3.3.0 model.onnx --release",
        "turnout publish magika auto model.onnx --meta magika.toml --golden cases.npz --dry-run",
        "turnout publish magika auto model.onnx --sign-key key.pem --server turnout:8003",
    ),
    "sign": (
        "turnout sign magika@3.3.0 --key key.pem",
        "turnout sign magika@3.3.0 --key key.pem --certificate chain.pem",
        "turnout sign magika@3.3.0 --signature model.sig --public-key key.pub.pem",
    ),
    "release": ("turnout release magika@3.3.0 --reason 'better on PDF'",),
    "withdraw": ("turnout withdraw magika@3.3.0 --reason 'too slow'",),
    "tag": ("turnout tag magika stable 3.2.0", "turnout tag magika stable --history"),
    "yank": ("turnout yank magika@3.2.1 --reason 'wrong labels'",),
    "unyank": ("turnout unyank magika@3.2.1 --reason 'the labels were right' --i-know-why",),
    "prune": ("turnout prune magika --keep-releases 3",),
    "models": ("turnout models",),
    "show": ("turnout show magika@^3.2", "turnout show magika@3.3.0 --markdown"),
    "diff": ("turnout diff magika@3.2.0 magika@3.3.0",),
    "log": ("turnout log magika --limit 20",),
    "verify": ("turnout verify", "turnout verify magika@3.3.0", "turnout verify --signed-by key.pub.pem"),
    "export": ("turnout export magika@3.3.0 --to magika-3.3.0",),
    "import export": ("turnout import export magika-3.3.0 --release",),
    "import triton": ("turnout import triton model_repository --dry-run",),
    "top": ("turnout top", "turnout top --once"),
    "servers": ("turnout servers",),
    "predict": ("turnout predict magika@^3 --input bytes=random", "turnout predict scale --input 'x=[[1, 2, 3, 4]]'"),
    "fetch": (
        "turnout fetch magika@3.3.0 --to magika-3.3.0",
        "turnout fetch magika@3.3.0 --to magika-3.3.0 --signatures signatures",
    ),
    "load": ("turnout load magika@3.2.0",),
    "unload": ("turnout unload magika@3.2.0",),
    "shadow": ("turnout shadow magika --worst 5",),
    "rollback": ("turnout rollback magika --reason 'wrong labels'",),
    "key new": ("turnout key new key.pem", "turnout key new key.pem --passphrase-file /run/secrets/key"),
    "key show": ("turnout key show key.pem", "turnout key show key.pem --pem"),
    "auth check": ("turnout auth check --config turnout.toml",),
    "auth explain": ("turnout auth explain dns:search.example.org predict magika",),
    "token create": ("turnout token create ci --role publish --model 'magika*' --expires 90d",),
    "token list": ("turnout token list --all",),
    "token revoke": ("turnout token revoke ci",),
    "state backup": ("turnout state backup state-backup.db",),
    "state restore": ("turnout state restore state-backup.db",),
    "traffic show": ("turnout traffic show magika",),
    "traffic set": ("turnout traffic set magika --baseline 3.2.0 --canary 3.3.0=5%",),
    "traffic ramp": ("turnout traffic ramp magika 3.3.0=25%",),
    "traffic clear": ("turnout traffic clear magika",),
    "traffic freeze": ("turnout traffic freeze magika --reason 'until Monday'",),
    "traffic revert": ("turnout traffic revert magika 7",),
    "traffic history": ("turnout traffic history magika",),
    "traffic explain": ("turnout traffic explain magika --key customer-17",),
    "rollout plan": ("turnout rollout plan magika --to 3.3.0",),
    "rollout start": (
        "turnout rollout start magika --to 3.3.0 --wait",
        "turnout rollout start magika --to 3.3.0 --steps 1%:10m,10%:30m,50%:1h --guard p99_ms=250",
    ),
    "rollout status": ("turnout rollout status",),
    "rollout history": ("turnout rollout history magika",),
    "rollout explain": ("turnout rollout explain magika",),
    "rollout watch": ("turnout rollout watch magika --timeout 2h",),
    "rollout report": ("turnout rollout report magika --html report.html",),
    "rollout pause": ("turnout rollout pause magika --reason 'lunch'",),
    "rollout resume": ("turnout rollout resume magika",),
    "rollout promote": ("turnout rollout promote magika --reason 'seen enough'",),
    "rollout set-weight": ("turnout rollout set-weight magika 10%",),
    "rollout freeze": ("turnout rollout freeze magika --reason 'release freeze'",),
    "rollout abort": ("turnout rollout abort magika --reason 'complaints'",),
    "rollout retry": ("turnout rollout retry magika",),
    "rollout probe": ("turnout rollout probe complaints --model magika@3.3.0",),
}
"""Example command lines, by command name without `turnout`."""


def epilog(command: str) -> str:
    """Returns the text below a command's options: its examples, each in a paragraph, since Typer joins lines."""
    lines = EXAMPLES.get(command, ())
    return literal("\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines]))
