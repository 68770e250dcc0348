"""Writes sequence_layers.json: what PyTorch's layers for sequences compute, for
tests/suite/layers/pytorch.rs.

    pip install torch numpy && python3 sequence_layers.py

PyTorch's (batch, length, dim) arrays are row-major, so their numbers are in the crate's order: the first
axis of [dim, length] is the fastest, one example after another.
"""

import json
from pathlib import Path

import torch
from torch import nn

torch.set_default_dtype(torch.float64)
torch.manual_seed(11)

BATCH, LENGTH, DIM, HEADS, VOCABULARY = 2, 3, 4, 2, 5


def flat(tensor):
    return tensor.detach().reshape(-1).tolist()


def columns(weight):
    """Column-major, as the crate stores a matrix."""
    return flat(weight.T)


def reference(layer, z, parameters):
    """Outputs, and gradients of ⟨u, outputs⟩ in the input and the parameters."""
    output = layer(z)
    u = torch.randn_like(output)
    wanted = [z] if z.is_floating_point() else []
    gradients = torch.autograd.grad((u * output).sum(), wanted + [p for p, _ in parameters])
    inputs, of_parameters = gradients[: len(wanted)], gradients[len(wanted) :]
    parts = lambda values: [x for (_, flatten), value in zip(parameters, values) for x in flatten(value)]
    return {
        "input": flat(z),
        "parameters": parts([p for p, _ in parameters]),
        "output": flat(output),
        "u": flat(u),
        "d_input": [x for d in inputs for x in flat(d)],
        "d_parameters": parts(of_parameters),
    }


def sequence():
    return torch.randn(BATCH, LENGTH, DIM, requires_grad=True)


def with_random(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def layer_norm(**options):
    layer = with_random(nn.LayerNorm(DIM, **options))
    return reference(layer, sequence(), [(p, flat) for p in layer.parameters()])


def rms_norm(**options):
    layer = with_random(nn.RMSNorm(DIM, **options))
    return reference(layer, sequence(), [(p, flat) for p in layer.parameters()])


def embedding():
    layer = with_random(nn.Embedding(VOCABULARY, DIM))
    tokens = torch.tensor([[3, 0, 3], [1, 3, 4]])
    return reference(layer, tokens, [(layer.weight, flat)])


def attention(causal, bias):
    layer = with_random(nn.MultiheadAttention(DIM, HEADS, bias=bias, batch_first=True))
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH) if causal else None
    parameters = [(layer.in_proj_weight, columns)]
    parameters += [(layer.in_proj_bias, flat)] if bias else []
    parameters += [(layer.out_proj.weight, columns)]
    parameters += [(layer.out_proj.bias, flat)] if bias else []
    forward = lambda z: layer(z, z, z, attn_mask=mask, need_weights=False)[0]
    return reference(forward, sequence(), parameters)


cases = {
    "layer_norm": layer_norm(),
    "layer_norm_options": layer_norm(eps=0.1, bias=False),
    "layer_norm_bare": layer_norm(elementwise_affine=False),
    "rms_norm": rms_norm(),
    "rms_norm_options": rms_norm(eps=0.1, elementwise_affine=False),
    "softmax": reference(nn.Softmax(dim=-1), sequence(), []),
    "embedding": embedding(),
    "attention": attention(causal=False, bias=True),
    "attention_causal": attention(causal=True, bias=False),
}
file = Path(__file__).with_name("sequence_layers.json")
file.write_text(json.dumps({"made_by": {"torch": torch.__version__}, **cases}, indent=1) + "\n")
