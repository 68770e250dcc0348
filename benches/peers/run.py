"""Makes the environment in `env/`, builds the Rust worker, and runs the comparison.

`python3 benches/peers/run.py [options of compare.py]`, from anywhere; only the standard library is
needed. What was installed stays for the next run.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from options import options_of

HERE = Path(__file__).resolve().parent


def environment(name, requirements):
    """The Python of a virtual environment with exactly these packages; None if they do not install."""
    folder = HERE / "env" / name
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    mark = folder / "installed"
    wanted = hashlib.sha256((HERE / requirements).read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text() != wanted:
        print(f"installing {requirements}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", HERE / requirements]
        if subprocess.run(install).returncode != 0:
            return None
        mark.write_text(wanted)
    return python


def main():
    if {"-h", "--help"} & set(sys.argv[1:]):
        # Nothing to install for that.
        options_of(__doc__)
    if sys.version_info < (3, 11):
        sys.exit("Python 3.11 or later is needed")
    python = environment("main", "requirements.txt")
    if python is None:
        sys.exit("requirements.txt does not install")
    # Without it, the run says that pcx is missing.
    pcx = environment("pcx", "requirements-pcx.txt")
    build = ["cargo", "build", "--release", "--locked", "--manifest-path", HERE / "Cargo.toml"]
    target = HERE / "target"
    subprocess.run(build, check=True, env=dict(os.environ, CARGO_TARGET_DIR=str(target)))
    binary = target / "release" / ("peers.exe" if os.name == "nt" else "peers")
    run = [python, HERE / "compare.py", "--binary", binary, *sys.argv[1:]]
    if pcx is not None:
        run += ["--pcx-python", pcx]
    sys.exit(subprocess.run(run).returncode)


if __name__ == "__main__":
    main()
