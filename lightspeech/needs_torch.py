"""Imported first by the commands that need PyTorch: one clear line where it is not installed."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as e:
    raise SystemExit(
        "error: this command needs PyTorch, which is not installed here; in a checkout: make demo, "
        "or pip install -c constraints.txt -e '.[train]'. An exported voice speaks without it: "
        "python -m lightspeech.runtime VOICE TEXT"
    ) from e
