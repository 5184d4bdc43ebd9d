"""What can be wrong with numbers: noise that decides, bugs, other precision, other weights."""

from __future__ import annotations

from faults.cases.common import COMPANION, FIXED, SURE, math_kernel
from faults.engine import arithmetic
from faults.specimen import Specimen, same
from faults.truth import (
    ALWAYS,
    Truth,
    anywhere,
    candidates,
    from_forward,
    in_block,
    middle_row,
    parted,
)

OF_ARITHMETIC = (
    Specimen(
        "noise of a padded batch",
        (17,),
        same(FIXED),
        Truth(parted, where=in_block),
        model="twins",
        lawful=True,
        companions=COMPANION,
    ),
    Specimen(
        "attention backend, float32",
        (18,),
        same(FIXED),
        Truth(parted, where=in_block),
        math_kernel,
        model="twins",
        lawful=True,
    ),
    Specimen(
        "attention backend, bfloat16",
        (18,),
        same(FIXED),
        Truth(parted, where=candidates),
        math_kernel,
        model="bfloat16",
        lawful=True,
        prompts=SURE,
    ),
    *(
        Specimen(name, (19,), same(FIXED), Truth(ALWAYS, (layer,), anywhere), fault)
        for name, layer, fault in (
            ("sigmoid for SiLU", 8, arithmetic.wrong_layer(7)),
            ("attention scores not scaled", 4, arithmetic.attention_too_sharp(3)),
            ("gate and up swapped", 21, arithmetic.gate_and_up_swapped(20)),
            ("embedding scaled", 0, arithmetic.embedding_too_large),
            ("last norm without its weight", 32, arithmetic.head_without_norm),
        )
    ),
    Specimen(
        "NaN in a layer",
        (26,),
        same(f"{FIXED} eos_stop=false"),
        Truth(from_forward(4), (10,), middle_row),
        arithmetic.not_a_number(9),
    ),
    Specimen(
        "a layer overflows",
        (26,),
        same(FIXED),
        Truth(from_forward(4), (20,), middle_row),
        arithmetic.layer_overflows(19),
    ),
    Specimen(
        "an infinite logit",
        (26,),
        same(FIXED),
        Truth(from_forward(3), (32,), candidates),
        arithmetic.infinite_logit,
    ),
    *(
        Specimen(name, (27,), same(FIXED), Truth(ALWAYS, (1,), anywhere), fault)
        for name, fault in (
            ("values in 8 bits", arithmetic.eight_bit_values),
            ("keys in 4 bits", arithmetic.four_bit_keys),
            ("K/V in float16", arithmetic.half_precision_keys),
            ("states in bfloat16", arithmetic.states_cast_to_bfloat16),
        )
    ),
    Specimen("other weights in one layer", (28,), same(FIXED), Truth(ALWAYS), model_b="layer 5"),
    # Quantised weights are other weights: their fingerprint says so before anything is measured.
    Specimen("weights in 8 bits", (28, 27), same(FIXED), Truth(ALWAYS), model_b="eight bits"),
    Specimen(
        "another prompt template",
        (28,),
        same(FIXED),
        Truth(ALWAYS, where=anywhere),
        # White space around a message is no template: chat templates strip it.
        prompt_b=lambda prompt: f"Question: {prompt}\nAnswer:",
    ),
    # A trace is made by a recorder: what it changes shows only beside a run without one. In the
    # trace the values are wrong, and the keys are those of other rows: to say so is right as well.
    Specimen(
        "recording breaks values",
        (29,),
        same(FIXED),
        Truth(from_forward(1), where=anywhere),
        arithmetic.recording_changes_the_run,
        from_trace=(29, 19),
        open_from_trace=True,
    ),
    Specimen(
        "recording moves keys",
        (29,),
        same(FIXED),
        Truth(from_forward(1), where=anywhere),
        arithmetic.recording_moves_the_keys,
        from_trace=(29, 13),
        open_from_trace=True,
    ),
    # One trace of a run that is never the same twice says only that its states are wrong.
    Specimen(
        "states are noisy",
        (30,),
        same(FIXED),
        Truth(ALWAYS, where=anywhere),
        arithmetic.different_every_time,
        open_from_trace=True,
    ),
)
