"""The Space: `python app.py`, or a Gradio Space's app_file. What it offers is named in the environment.

SAM_HF_MODELS: checkpoints, separated by commas: "tiny" (default), Hub ids, folders. The first is the default.
SAM_HF_DEVICE, SAM_HF_DTYPE: where they run, and their precision.
SAM_HF_ALLOWED_HOSTS: further host names that are ours, as behind a proxy; separated by commas.
"""

import contextlib
import os
import sys

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  # ZeroGPU's package wants to come before torch

ON_SPACE = "SPACE_ID" in os.environ


def arguments() -> list[str]:
    """The environment as arguments of `sam-hf app`."""
    chosen = []
    for option, listed in (("--model", "MODELS"), ("--allowed-host", "ALLOWED_HOSTS")):
        given = os.environ.get(f"SAM_HF_{listed}", "tiny" if option == "--model" else "").split(",")
        chosen += [word for name in given if name.strip() for word in (option, name.strip())]
    for option in ("device", "dtype"):
        if os.environ.get(f"SAM_HF_{option.upper()}"):
            chosen += [f"--{option}", os.environ[f"SAM_HF_{option.upper()}"]]
    if ON_SPACE:  # its proxy comes from outside
        chosen += ["--host", "0.0.0.0", "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
    return chosen


def __getattr__(name: str) -> object:
    """`demo`, built when somebody asks for it: Gradio's reloader, other apps."""
    if name != "demo":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sam_hf.ui.app_command import make_demo, parser

    globals()["demo"] = make_demo(parser().parse_args(arguments()))
    return globals()["demo"]


if __name__ == "__main__":
    from sam_hf.ui.app_command import main

    sys.exit(main([*arguments(), *sys.argv[1:]]))
