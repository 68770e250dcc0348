"""Files shared with Python: weights that PyTorch saved, and files of this crate read with NumPy.

`python3 storage.py make` writes pytorch_f32.safetensors, pytorch_f64.safetensors and pytorch.json with
the net's inputs and outputs. `python3 storage.py check FILE` reads a checkpoint of the example `resume`
and computes the composed loss, which the example prints too. Needs torch, numpy and safetensors.
Written with torch 2.15, numpy 2.4, safetensors 0.8.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent


def make():
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    save_file(net.state_dict(), HERE / "pytorch_f32.safetensors")
    net = net.double()
    save_file(net.state_dict(), HERE / "pytorch_f64.safetensors")
    inputs = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)
    values = {"inputs": inputs.tolist(), "outputs": net(inputs).flatten().tolist()}
    (HERE / "pytorch.json").write_text(json.dumps(values, indent=1) + "\n")


def check(path):
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import load_file

    arrays = load_file(path)
    with safe_open(path, "np") as file:
        about = json.loads(file.metadata()["layerwise"])
    for name, array in sorted(arrays.items()):
        print(name, array.dtype, array.shape)
    z = arrays["examples.z0"].T
    for t, layer in enumerate(about["layers"]):
        z = arrays[f"{t}.weights"] @ z + arrays[f"{t}.bias"][:, None]
        if layer["settings"]["activation"] == "tanh":
            z = np.tanh(z)
    targets = arrays[f"examples.z{len(about['layers'])}"].T
    print("composed loss %.3e" % (((targets - z) ** 2).sum() / 2 / z.shape[1]))


if sys.argv[1:2] == ["make"]:
    make()
else:
    check(sys.argv[2])
