"""GPT-NeoX, Pythia: attention and feed-forward side by side; one layer for q, k and v; LayerNorm; no gate; biases."""

from sparc3_lightning.models.family import Family

GPT_NEOX = Family(
    model_type="gpt_neox",
    norm_class="LayerNorm",
    norm="layer_norm",
    norm_eps="eps",
    blocks="gpt_neox.layers",
    attention="attention",
    up="mlp.dense_h_to_4h",
    gate=None,
    down="mlp.dense_4h_to_h",
    activation="mlp.act",
    linears=("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    head_in_files="embed_out",
    per_token=("attention.dense", "mlp"),
    # Of every token keys and values count, and they are made together with its query.
    one_token=(),
    cp_lrp_unreached=(),
)
