"""Phi-3 to 4: gate and up are one layer, the gate's rows first; q, k and v are another; a sliding window."""

from sparc3_lightning.models.family import Family

PHI3 = Family(
    model_type="phi3",
    norm_class="Phi3RMSNorm",
    up="mlp.gate_up_proj",
    gate="mlp.gate_up_proj",
    activation="mlp.activation_fn",
    linears=("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    # Of every token keys and values count, and they are made together with its query.
    one_token=(),
    cp_lrp_unreached=(),
)
