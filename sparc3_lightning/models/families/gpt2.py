"""GPT-2: layers that store (I, O), one for q, k and v together; LayerNorm; no gate; learned positions; a tied head."""

from operator import attrgetter
from typing import Any

from sparc3_lightning.models.family import Family


def _num_neurons(config: Any) -> int:
    return int(config.n_inner or 4 * config.n_embd)


def _refuses(config: Any) -> str | None:
    if config.add_cross_attention:
        return "cross attention (`add_cross_attention`)"
    # It passes by transformers' attention interface, and with it by the rules.
    return "an attention of its own (`reorder_and_upcast_attn`)" if config.reorder_and_upcast_attn else None


GPT2 = Family(
    model_type="gpt2",
    norm_class="LayerNorm",
    norm="layer_norm",
    norm_eps="eps",
    blocks="transformer.h",
    attention="attn",
    up="mlp.c_fc",
    gate=None,
    down="mlp.c_proj",
    activation="mlp.act",
    linears=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    per_token=("attn.c_proj", "mlp"),
    # Of every token keys and values count, and they are made together with its query.
    one_token=(),
    cp_lrp_unreached=(),
    num_layers=attrgetter("n_layer"),
    num_neurons=_num_neurons,
    refuses=_refuses,
)
