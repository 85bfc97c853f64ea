"""OPT, all sizes but 350M: fc1 and fc2 lie in the block itself, with biases; ReLU; LayerNorm; a tied head."""

from operator import attrgetter
from typing import Any

from sparc3_lightning.models.family import Family


def _refuses(config: Any) -> str | None:
    if not config.do_layer_norm_before:
        return "norms after its layers (`do_layer_norm_before: false`, as OPT-350M)"
    if config.word_embed_proj_dim != config.hidden_size:
        return "projected embeddings (`word_embed_proj_dim` other than `hidden_size`)"
    return "no last norm (`_remove_final_layer_norm`)" if config._remove_final_layer_norm else None


OPT = Family(
    model_type="opt",
    norm_class="LayerNorm",
    norm="layer_norm",
    norm_eps="eps",
    blocks="model.decoder.layers",
    up="fc1",
    gate=None,
    down="fc2",
    activation="activation_fn",
    linears=("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"),
    # The block puts the tokens of all samples in one row before fc1: none can be left out there.
    per_token=("self_attn.out_proj",),
    one_token=("self_attn.q_proj", "fc1", "fc2"),
    cp_lrp_unreached=("self_attn.q_proj", "self_attn.k_proj"),
    num_neurons=attrgetter("ffn_dim"),
    refuses=_refuses,
)
